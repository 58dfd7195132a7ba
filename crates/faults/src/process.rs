//! Processes of the product, and what is done to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep};

/// How often an ended process is looked for.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A process that is killed when its case ends.
pub(crate) struct Process {
    pub(crate) name: String,
    /// The program, before it the one it runs under, if any.
    command: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts a program with this environment and no other. Its log is appended to.
    pub(crate) fn start(
        name: &str,
        command: Vec<PathBuf>,
        environment: BTreeMap<String, String>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let mut process = Self { name: name.to_owned(), command, environment, log, child: None };
        process.start_again()?;
        Ok(process)
    }

    /// Stands for one that is not there yet.
    pub(crate) fn none() -> Self {
        Self {
            name: "nothing".to_owned(),
            command: Vec::new(),
            environment: BTreeMap::new(),
            log: PathBuf::new(),
            child: None,
        }
    }

    /// Starts it again, after it has ended.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.command[0].display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status()?;
        ensure!(sent.success(), "{} could not be sent SIG{signal}", self.name);
        Ok(())
    }

    /// Sends SIGTERM and waits for the end. Says how long it took.
    pub(crate) async fn terminate(&mut self, within: Duration) -> anyhow::Result<(ExitStatus, Duration)> {
        self.signal("TERM")?;
        let began = Instant::now();
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((status, began.elapsed()));
            }
            if began.elapsed() > within {
                self.child = Some(child);
                bail!("{} did not end within {} s of SIGTERM", self.name, within.as_secs());
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// How it ended, if it did so by itself: something that no process may do.
    pub(crate) fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// The most memory it has used since it was started, in MiB; 0 when it does not run.
    pub(crate) fn peak_memory_mib(&self) -> u64 {
        let status = self.child.as_ref().map(|child| format!("/proc/{}/status", child.id()));
        let status = status.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Changes its environment, from its next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// A variable of its environment.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}
