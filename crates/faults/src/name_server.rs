//! A name server that knows one address: every name is 127.0.0.1. It can fall silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The header of a message, in bytes.
const HEADER: usize = 12;
/// The type of a question or an answer that is an IPv4 address.
const TYPE_A: [u8; 2] = [0, 1];

pub(crate) struct NameServer {
    address: SocketAddr,
    answers: Arc<AtomicBool>,
    questions: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl NameServer {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let (answers, questions) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (answering, counted) = (Arc::clone(&answers), Arc::clone(&questions));
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(reply) = reply(&buffer[..length])
                    && answering.load(Ordering::Relaxed)
                {
                    let _ = socket.send_to(&reply, client).await;
                }
            }
        });
        Ok(Self { address, answers, questions, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it answers from now on.
    pub(crate) fn answer(&self, answer: bool) {
        self.answers.store(answer, Ordering::Relaxed);
    }

    /// How often it was asked.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a message with one question; to one about anything but an IPv4 address, that there is nothing.
fn reply(message: &[u8]) -> Option<Vec<u8>> {
    let name_end = HEADER + message.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let question = message.get(HEADER..name_end + 4)?;
    let is_address = message.get(name_end..name_end + 2)? == TYPE_A;
    let mut reply = message[..2].to_vec();
    // A response, recursion desired and available; one question, no or one answer, nothing else.
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    reply.extend(question);
    if is_address {
        // The name of the question, type A, class IN, no time to live, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(of_type: u8) -> Vec<u8> {
        let mut message = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x08receiver\x04test\x00");
        message.extend([0, of_type, 0, 1]);
        message
    }

    #[test]
    fn an_address_is_asked_for_and_given_and_nothing_else() {
        let answered = reply(&question(1)).unwrap();
        assert!(answered.starts_with(&[7, 8, 0x81, 0x80, 0, 1, 0, 1]) && answered.ends_with(&[127, 0, 0, 1]));
        let empty = reply(&question(28)).unwrap();
        assert!(empty.starts_with(&[7, 8, 0x81, 0x80, 0, 1, 0, 0]) && empty.ends_with(&[0, 28, 0, 1]));
        assert_eq!(reply(b"short"), None);
    }
}
