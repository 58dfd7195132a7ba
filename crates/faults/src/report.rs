//! What a person reads: progress, the table, and `deploy/FAULTS.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;

use crate::cases::Case;
use crate::oracle::Findings;
use crate::world::Lab;

/// Where the table is put in the document.
const BEGIN: &str = "<!-- table:begin -->";
const END: &str = "<!-- table:end -->";

/// How a case ended.
pub(crate) enum Verdict {
    /// It ran; whether all was well, the problems say.
    Ran(Findings),
    /// It could not be brought to its end.
    Broke(String),
    /// It was not run, for this reason.
    NotRun(String),
}

impl Verdict {
    pub(crate) fn has_failed(&self) -> bool {
        match self {
            Self::Ran(findings) => !findings.problems.is_empty(),
            Self::Broke(_) => true,
            Self::NotRun(_) => false,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Ran(findings) if findings.problems.is_empty() => "passed",
            Self::Ran(_) | Self::Broke(_) => "FAILED",
            Self::NotRun(_) => "not run",
        }
    }

    fn remarks(&self) -> Vec<String> {
        match self {
            Self::Ran(findings) => findings.problems.iter().chain(&findings.notes).cloned().collect(),
            Self::Broke(reason) | Self::NotRun(reason) => vec![reason.clone()],
        }
    }
}

/// A case that is over.
pub(crate) struct Ended {
    pub(crate) case: Case,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
}

#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
pub(crate) fn begins(case: &Case) {
    eprintln!("\n{:>4} {}: {}", case.number, case.name, case.sentence);
}

#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
pub(crate) fn ends(ended: &Ended) {
    eprintln!("     {} after {} s", ended.verdict.word(), ended.took.as_secs());
    for remark in ended.verdict.remarks() {
        eprintln!("     - {remark}");
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) fn list(cases: &[Case]) {
    for case in cases {
        let quick = if case.quick { "quick" } else { "" };
        println!("{:>4}  {:<34} {quick:<5}  {}", case.number, case.name, case.sentence);
    }
}

/// Prints the table and the count.
#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) fn summary(all: &[Ended]) {
    println!(
        "\n{:>4}  {:<34} {:>8} {:>9} {:>10} {:>9} {:>9}  verdict",
        "", "case", "accepted", "delivered", "duplicates", "recovery", "caught up"
    );
    for ended in all {
        let [accepted, delivered, duplicates, recovery, caught_up] = cells(&ended.verdict);
        println!(
            "{:>4}  {:<34} {accepted:>8} {delivered:>9} {duplicates:>10} {recovery:>9} {caught_up:>9}  {}",
            ended.case.number,
            ended.case.name,
            ended.verdict.word()
        );
    }
    println!("\n{}", counts(all));
}

fn counts(all: &[Ended]) -> String {
    let count = |word: &str| all.iter().filter(|ended| ended.verdict.word() == word).count();
    let mut text = format!("{} passed, {} failed", count("passed"), count("FAILED"));
    match count("not run") {
        0 => {}
        not_run => write!(text, ", {not_run} NOT RUN").unwrap_or_default(),
    }
    text
}

fn cells(verdict: &Verdict) -> [String; 5] {
    let none = || "–".to_owned();
    let Verdict::Ran(findings) = verdict else { return [none(), none(), none(), none(), none()] };
    let seconds =
        |time: Option<Duration>| time.map_or_else(none, |time| format!("{:.1} s", time.as_secs_f64()));
    [
        findings.accepted.to_string(),
        findings.delivered.to_string(),
        findings.duplicates.to_string(),
        seconds(findings.recovery),
        seconds(findings.caught_up),
    ]
}

/// Puts the table into the document, between its marks.
pub(crate) fn write(file: &Path, lab: &Lab, all: &[Ended], took: Duration) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("the document has no mark for the table's begin")?;
    let (_, after) = rest.split_once(END).context("the document has no mark for the table's end")?;
    let document = format!("{before}{BEGIN}\n{}{END}{after}", table(lab, all, took)?);
    Ok(std::fs::write(file, document)?)
}

fn table(lab: &Lab, all: &[Ended], took: Duration) -> anyhow::Result<String> {
    let mut text = String::new();
    let cores = std::thread::available_parallelism()?;
    let (postgres, rabbitmq, rustc) = versions(lab);
    writeln!(
        text,
        "Run on {}, on {cores} cores shared by everything, in {} min: Postgres {postgres}, RabbitMQ {rabbitmq}, {rustc}. **{}.**\n",
        Utc::now().format("%Y-%m-%d"),
        took.as_secs().div_ceil(60),
        counts(all)
    )?;
    writeln!(text, "| # | fault | accepted | delivered | duplicates | recovery | caught up | verdict | |")?;
    writeln!(text, "|---|---|---:|---:|---:|---:|---:|---|---|")?;
    for Ended { case, verdict, .. } in all {
        let [accepted, delivered, duplicates, recovery, caught_up] = cells(verdict);
        let remarks = verdict.remarks().join("; ").replace('|', "\\|").replace('\n', " ");
        writeln!(
            text,
            "| {} | {} | {accepted} | {delivered} | {duplicates} | {recovery} | {caught_up} | {} | {remarks} |",
            case.number,
            case.sentence,
            verdict.word()
        )?;
    }
    Ok(text)
}

fn versions(lab: &Lab) -> (String, String, String) {
    let said = |command: &mut Command| {
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unknown = || "of unknown version".to_owned();
    let rabbitmq = said(Command::new(&lab.services).arg("ctl").arg(&lab.servers).arg("version"));
    let rustc = said(Command::new("rustc").arg("--version"));
    let postgres = said(Command::new("psql").arg("--version"))
        .and_then(|version| version.split(' ').nth(2).map(str::to_owned));
    (postgres.unwrap_or_else(unknown), rabbitmq.unwrap_or_else(unknown), rustc.unwrap_or_else(unknown))
}
