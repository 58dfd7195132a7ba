//! What is published: events of 1 KB with the time and a number in them, at a fixed place and of a fixed width, so that a
//! request is made once and only stamped anew for each event.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

/// Size of an event's `data`, in bytes.
pub(crate) const DATA_BYTES: usize = 1024;
/// The type of every event.
pub(crate) const EVENT_TYPE: &str = "message.received";

const TIME_DIGITS: usize = 16;
const SEQUENCE_DIGITS: usize = 10;
const TIME_MARK: &str = r#""data":{"at":""#;
const SEQUENCE_MARK: &str = r#"","seq":""#;

/// Now, in microseconds since 1970.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `"data":{…}` of an event, of [`DATA_BYTES`], with zeros for time and number.
pub(crate) fn data_field() -> String {
    let mut field =
        format!("{TIME_MARK}{:0TIME_DIGITS$}{SEQUENCE_MARK}{:0SEQUENCE_DIGITS$}\",\"pad\":\"", 0, 0);
    let length = r#""data":"#.len() + DATA_BYTES - r#""}"#.len();
    while field.len() < length {
        field.push(char::from(b'a' + u8::try_from(field.len() % 26).unwrap_or_default()));
    }
    field.push_str(r#""}"#);
    field
}

/// Bytes with one or more events in them, to be stamped.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    stamps: Vec<Stamp>,
}

/// Where one event's time and number are, and its id, where it has one of its own.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    time: usize,
    sequence: usize,
    id: Option<usize>,
}

/// Stands for the digits of an id of an event's own.
pub(crate) const ID_DIGITS: &str = "##########";

impl Template {
    /// Finds the places to stamp.
    pub(crate) fn new(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let mut stamps = Vec::new();
        let mut from = 0;
        while let Some(found) = find(&bytes[from..], TIME_MARK.as_bytes()) {
            let time = from + found + TIME_MARK.len();
            let id = find(&bytes[from..time], ID_DIGITS.as_bytes()).map(|place| from + place);
            stamps.push(Stamp { time, sequence: time + TIME_DIGITS + SEQUENCE_MARK.len(), id });
            from = time;
        }
        stamps.first().context("there is no event to stamp")?;
        Ok(Self { bytes, stamps })
    }

    /// Events in it.
    pub(crate) fn events(&self) -> usize {
        self.stamps.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives every event this time, and numbers them from `sequence` on.
    pub(crate) fn stamp(&mut self, sent_at: u64, sequence: u32) -> &[u8] {
        for (stamp, number) in self.stamps.iter().zip(u64::from(sequence)..) {
            write_digits(&mut self.bytes[stamp.time..stamp.time + TIME_DIGITS], sent_at);
            write_digits(&mut self.bytes[stamp.sequence..stamp.sequence + SEQUENCE_DIGITS], number);
            if let Some(id) = stamp.id {
                write_digits(&mut self.bytes[id..id + SEQUENCE_DIGITS], number);
            }
        }
        &self.bytes
    }
}

/// The time and the number in a delivered body.
pub(crate) fn read_stamp(body: &[u8]) -> Option<(u64, u32)> {
    let time = find(body, TIME_MARK.as_bytes())? + TIME_MARK.len();
    let sequence = time + TIME_DIGITS + SEQUENCE_MARK.len();
    let sent_at = read_digits(body.get(time..time + TIME_DIGITS)?)?;
    let number = read_digits(body.get(sequence..sequence + SEQUENCE_DIGITS)?)?;
    Some((sent_at, u32::try_from(number).ok()?))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

fn read_digits(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stamped_is_read_again() {
        let body = format!("{{\"id\":\"b-{ID_DIGITS}\",{}}}", data_field());
        let mut template = Template::new(format!("[{body},{body}]").into_bytes()).unwrap();
        assert_eq!(template.events(), 2);
        let text = String::from_utf8(template.stamp(1_790_000_000_123_456, 41).to_vec()).unwrap();
        assert!(text.contains("\"b-0000000041\"") && text.contains("\"b-0000000042\""), "{text}");
        assert_eq!(read_stamp(text.as_bytes()), Some((1_790_000_000_123_456, 41)));
        assert_eq!(read_stamp(&text.as_bytes()[text.len() / 2 - 20..]), Some((1_790_000_000_123_456, 42)));
    }

    #[test]
    fn data_has_its_size_and_is_json() {
        let event: serde_json::Value = serde_json::from_str(&format!("{{{}}}", data_field())).unwrap();
        assert_eq!(event["data"].to_string().len(), DATA_BYTES);
    }
}
