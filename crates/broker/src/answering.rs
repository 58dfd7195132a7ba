//! Tells everyone whose events were in a message what became of it.
//!
//! To wake another thread is a system call each time; to wake a task of one's own thread is none. So one caller of a thread
//! is told, and the others hear it from there.

use std::thread::{self, ThreadId};

use tokio::sync::oneshot;

use crate::PublishError;

/// Who waits for an answer, and on which thread.
pub(crate) struct Caller {
    thread: ThreadId,
    reply: oneshot::Sender<Answer>,
}

impl Caller {
    /// One on this thread, and what it is to wait for.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { thread: thread::current().id(), reply }, answer)
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What became of a message, and who else is to hear it: they do when this is dropped, whatever becomes of who has it.
pub(crate) struct Answer {
    pub(crate) result: Result<(), PublishError>,
    others: Vec<Caller>,
}

impl Answer {
    /// Tells the first that still waits.
    fn pass_on(mut self) {
        while let Some(next) = self.others.pop() {
            match next.reply.send(self) {
                Ok(()) => return,
                Err(unheard) => self = unheard,
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        for other in self.others.drain(..) {
            let _ = other.reply.send(Self { result: self.result, others: Vec::new() });
        }
    }
}

/// Answers all of them, with one wake-up for each of their threads.
pub(crate) fn answer(mut callers: Vec<Caller>, result: Result<(), PublishError>) {
    while let Some(last) = callers.last() {
        let thread = last.thread;
        let others = callers.extract_if(.., |caller| caller.thread == thread).collect();
        Answer { result, others }.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_answered_whoever_gives_up_before_or_after() {
        for gives_up in 0..3 {
            for is_told_before in [false, true] {
                let (mut callers, mut answers): (Vec<_>, Vec<_>) = (0..3).map(|_| Caller::new()).unzip();
                let elsewhere = thread::spawn(Caller::new).join().unwrap();
                callers.insert(1, elsewhere.0);
                if is_told_before {
                    answer(callers, Err(PublishError::Refused));
                    drop(answers.remove(gives_up));
                } else {
                    drop(answers.remove(gives_up));
                    answer(callers, Err(PublishError::Refused));
                }
                // Who was told last has the answer of the others until it takes it up.
                answers.push(elsewhere.1);
                for answer in answers.into_iter().rev() {
                    assert_eq!(answer.blocking_recv().unwrap().result, Err(PublishError::Refused));
                }
            }
        }
    }

    #[test]
    fn a_thread_is_woken_once() {
        let (callers, mut answers): (Vec<_>, Vec<_>) = (0..3).map(|_| Caller::new()).unzip();
        answer(callers, Ok(()));
        let told: Vec<_> = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect();
        assert_eq!(told.len(), 1, "the others hear it from there");
        drop(told);
        let told = answers.iter_mut().filter_map(|answer| answer.try_recv().ok());
        assert_eq!(told.count(), 2);
    }
}
