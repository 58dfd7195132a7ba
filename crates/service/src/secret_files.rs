//! Secrets that are kept in files, and change while the process runs: a rotated password, another key.
//!
//! Kubernetes changes a mounted Secret by pointing a link at another directory. So files are read again and compared, which
//! works with links, renames and writes alike, and on every file system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often files are read again.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Largest file of a secret, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

type TakeOn = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// A file with a secret, and what takes on what it says.
pub struct SecretFile {
    /// The environment variable that names the file.
    variable: String,
    path: PathBuf,
    /// What it said last.
    content: String,
    /// The last failure, which is told once.
    told: Option<String>,
    take_on: TakeOn,
}

impl SecretFile {
    pub(crate) fn new(
        variable: String,
        path: PathBuf,
        content: String,
        take_on: impl Fn(&str) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self { variable, path, content, told: None, take_on: Box::new(take_on) }
    }

    /// Reads the file, and takes on what it says if that has changed. What cannot be read or used changes nothing.
    fn look(&mut self) {
        let failure = match read(&self.path) {
            Ok(content) if content == self.content => None,
            Ok(content) => match (self.take_on)(&content) {
                Ok(()) => {
                    info!(file = self.variable, "a secret has changed and is taken on");
                    self.content = content;
                    None
                }
                Err(problem) => Some(problem),
            },
            Err(problem) => Some(problem),
        };
        if failure != self.told
            && let Some(problem) = &failure
        {
            warn!(
                file = self.variable,
                problem, "a secret has changed and cannot be used; the last one stays"
            );
        }
        self.told = failure;
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("variable", &self.variable).finish_non_exhaustive()
    }
}

/// What a file says, without the line break at its end.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let in_time = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if std::fs::metadata(path).map_err(in_time)?.len() > MAX_BYTES {
        return Err(format!("{} is larger than {MAX_BYTES} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(in_time)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Looks after files until told to stop.
pub async fn watch(mut files: Vec<SecretFile>, interval: Duration, stop: CancellationToken) {
    while !files.is_empty() {
        tokio::select! {
            () = sleep(interval) => {}
            () = stop.cancelled() => return,
        }
        // A file system may be slow.
        let looked = tokio::task::spawn_blocking(move || {
            files.iter_mut().for_each(SecretFile::look);
            files
        });
        files = match looked.await {
            Ok(files) => files,
            Err(_) => return, // the process ends
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_change_is_taken_on_once_also_through_a_link_and_nonsense_changes_nothing() {
        let directory = std::env::temp_dir().join(format!("postrider-secret-{}", std::process::id()));
        for (version, content) in [("v1", "one\n"), ("v2", "two"), ("v3", "nonsense")] {
            std::fs::create_dir_all(directory.join(version)).unwrap();
            std::fs::write(directory.join(version).join("secret"), content).unwrap();
        }
        let link = |version: &str| {
            let new = directory.join("new");
            std::os::unix::fs::symlink(directory.join(version), &new).unwrap();
            std::fs::rename(&new, directory.join("data")).unwrap();
        };
        link("v1");
        let taken = Arc::new(Mutex::new(Vec::new()));
        let path = directory.join("data/secret");
        let mut file = SecretFile::new("X_FILE".to_owned(), path.clone(), read(&path).unwrap(), {
            let taken = Arc::clone(&taken);
            move |secret| {
                if secret == "nonsense" {
                    return Err("nonsense".to_owned());
                }
                taken.lock().unwrap().push(secret.to_owned());
                Ok(())
            }
        });
        for version in ["v1", "v2", "v2", "v3", "v3", "v2", "v1"] {
            link(version);
            file.look();
        }
        std::fs::remove_file(directory.join("data")).unwrap();
        file.look();
        assert_eq!(*taken.lock().unwrap(), ["two", "one"]);
        assert!(file.told.is_some_and(|problem| problem.contains("cannot be read")));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
