use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use uuid::Uuid;

use crate::eventually;

/// Things that must show nowhere, each with what it is.
#[derive(Default)]
pub struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Adds one.
    pub fn add(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 8, "{what} is too short to be told from chance");
        self.0.push((what.to_owned(), secret.to_owned()));
    }

    /// Which of them a text shows: as they are, in base64, or as a list of bytes.
    pub fn shown_in(&self, text: &str) -> Vec<&str> {
        let shows = |secret: &str| forms(secret).iter().any(|form| text.contains(form));
        self.0.iter().filter(|(_, secret)| shows(secret)).map(|(what, _)| &**what).collect()
    }
}

fn forms(secret: &str) -> [String; 3] {
    let bytes = secret.as_bytes();
    // Of three bytes each, because what follows decides the last digits.
    let base64 = STANDARD_NO_PAD.encode(&bytes[..bytes.len() / 3 * 3]);
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    [secret.to_owned(), base64, list.join(", ")]
}

/// The password of a URL.
pub fn password_of(url: &str) -> &str {
    let (user_and_password, _) = url.split_once("://").unwrap().1.rsplit_once('@').unwrap();
    user_and_password.split_once(':').unwrap().1
}

/// A process that is killed when the test ends, and all that it says.
pub struct LoggedProcess {
    child: Child,
    log: PathBuf,
}

impl LoggedProcess {
    /// Starts one.
    pub fn start(command: &mut Command) -> Self {
        let log = std::env::temp_dir().join(format!("postrider-test-{}.log", Uuid::now_v7()));
        let file = File::create(&log).unwrap();
        let child = command.stderr(file.try_clone().unwrap()).stdout(file).spawn().unwrap();
        Self { child, log }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// An address that it says on a line of JSON, once it does.
    pub async fn address(&self, field: &str) -> SocketAddr {
        let begin = format!("\"{field}\":\"127.0.0.1:");
        eventually("an address in the log", async || {
            let log = self.log();
            let (_, rest) = log.split_once(&begin)?;
            format!("127.0.0.1:{}", rest.split_once('"')?.0).parse().ok()
        })
        .await
    }
}

impl Drop for LoggedProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let mut secrets = Secrets::default();
        secrets.add("the password", "hunter2hunter2!");
        for text in [
            "x hunter2hunter2! y",
            "aHVudGVyMmh1bnRlcjIh",
            "[1, 104, 117, 110, 116, 101, 114, 50, 104, 117, 110, 116, 101, 114, 50, 33]",
        ] {
            assert_eq!(secrets.shown_in(text), ["the password"], "{text}");
        }
        assert!(secrets.shown_in("hunter2").is_empty());
        assert_eq!(password_of("amqp://user:pass:word@host:1/%2f"), "pass:word");
    }
}
