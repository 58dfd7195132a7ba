//! What a person reads while it runs, and the results on standard output.

/// Says how far it is.
#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
pub(crate) fn progress(text: &str) {
    eprintln!("  {text}");
}

/// Begins a part.
#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
pub(crate) fn heading(text: &str) {
    eprintln!("\n{text}");
}

/// Prints a result.
#[expect(clippy::print_stdout, reason = "the results are what was asked for")]
pub(crate) fn result(text: &str) {
    println!("{text}");
}
