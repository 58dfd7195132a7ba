//! What a run found: rows of one form, a table for people, and JSON for programs.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::arrivals::median;
use crate::usage::ByProcess;

/// What one scenario, or one part of it, measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) scenario: String,
    /// Events accepted, and deliveries that arrived for them.
    pub(crate) events: usize,
    pub(crate) deliveries: usize,
    /// From the first publish to the last arrival.
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// Events per second of the time in which was published.
    pub(crate) accepted_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) floor_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) floor_ratio: Option<f64>,
    /// From publish to arrival.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) cpu_ms_per_event: ByProcess,
    /// Each process' part of all CPU that was used.
    pub(crate) cpu_share: ByProcess,
    /// Growth of the database, indexes included.
    pub(crate) bytes_per_event: f64,
    /// Written ahead, which a later checkpoint frees.
    pub(crate) wal_bytes_per_event: f64,
    pub(crate) peak_rss_mb: ByProcess,
    /// Events that were not accepted, deliveries that came twice, and deliveries that did not come.
    pub(crate) refused: u64,
    pub(crate) repeats: usize,
    pub(crate) missing: usize,
    /// What only this scenario has.
    #[serde(flatten)]
    pub(crate) detail: Map<String, Value>,
}

impl Measured {
    pub(crate) fn set_usage(&mut self, cpu: &ByProcess, stored: i64, logged: i64, peak: ByProcess) {
        let events = self.events.max(1) as f64;
        let total: f64 = cpu.values().sum::<f64>().max(1.0);
        self.cpu_ms_per_event = cpu.iter().map(|(name, cpu)| (*name, cpu / events)).collect();
        self.cpu_share = cpu.iter().map(|(name, cpu)| (*name, cpu / total)).collect();
        self.bytes_per_event = stored as f64 / events;
        self.wal_bytes_per_event = logged as f64 / events;
        self.peak_rss_mb = peak;
    }

    pub(crate) fn set_floor(&mut self, floor_per_second: f64) {
        self.floor_per_second = Some(floor_per_second);
        self.floor_ratio = Some(self.deliveries_per_second / floor_per_second);
    }

    pub(crate) fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.detail.insert(name.to_owned(), value.into());
    }

    /// One row of several like it: medians of what varies, sums of what counts.
    pub(crate) fn median_of(rounds: &[Self]) -> Self {
        let Some(first) = rounds.first() else { return Self::default() };
        let of = |value: fn(&Self) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
        let optional = |value: fn(&Self) -> Option<f64>| {
            let values: Vec<f64> = rounds.iter().filter_map(value).collect();
            (!values.is_empty()).then(|| median(&values))
        };
        let by_process = |value: fn(&Self) -> &ByProcess| {
            let names = value(first).keys();
            let of = |name: &str| {
                median(&rounds.iter().filter_map(|round| value(round).get(name).copied()).collect::<Vec<_>>())
            };
            names.map(|name| (*name, of(name))).collect()
        };
        let mut row = Self {
            scenario: first.scenario.clone(),
            events: rounds.iter().map(|round| round.events).sum(),
            deliveries: rounds.iter().map(|round| round.deliveries).sum(),
            seconds: rounds.iter().map(|round| round.seconds).sum(),
            events_per_second: of(|round| round.events_per_second),
            deliveries_per_second: of(|round| round.deliveries_per_second),
            accepted_per_second: of(|round| round.accepted_per_second),
            floor_per_second: optional(|round| round.floor_per_second),
            floor_ratio: optional(|round| round.floor_ratio),
            p50_ms: of(|round| round.p50_ms),
            p99_ms: of(|round| round.p99_ms),
            p999_ms: of(|round| round.p999_ms),
            cpu_ms_per_event: by_process(|round| &round.cpu_ms_per_event),
            cpu_share: by_process(|round| &round.cpu_share),
            bytes_per_event: of(|round| round.bytes_per_event),
            wal_bytes_per_event: of(|round| round.wal_bytes_per_event),
            peak_rss_mb: by_process(|round| &round.peak_rss_mb),
            refused: rounds.iter().map(|round| round.refused).sum(),
            repeats: rounds.iter().map(|round| round.repeats).sum(),
            missing: rounds.iter().map(|round| round.missing).sum(),
            detail: first.detail.clone(),
        };
        row.note("rounds", rounds.iter().map(|round| rounded(round.events_per_second)).collect::<Vec<_>>());
        row
    }

    /// One line for a person.
    pub(crate) fn line(&self) -> String {
        let fan_out = if self.deliveries > self.events {
            format!(", {} deliveries/s", thousands(self.deliveries_per_second))
        } else {
            String::new()
        };
        format!(
            "{}: {} events/s{fan_out}{}, p50 {} ms, p99 {} ms",
            self.scenario,
            thousands(self.events_per_second),
            self.floor_ratio.map(|ratio| format!(" ({ratio:.2} of the floor)")).unwrap_or_default(),
            short(self.p50_ms),
            short(self.p99_ms),
        )
    }
}

/// The heads of the table, and of the one in Markdown.
const HEADS: [&str; 10] = [
    "scenario",
    "events/s",
    "deliveries/s",
    "of floor",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "CPU ms per event: gateway dispatcher rabbitmq postgres | load receiver",
    "bytes/event",
    "peak MiB: gateway dispatcher rabbitmq postgres",
];

/// The programs whose use of CPU and memory is shown, in this order.
const OURS: [&str; 4] = ["gateway", "dispatcher", "rabbitmq", "postgres"];

/// The cells of the table, with its heads.
pub(crate) fn cells(rows: &[Measured]) -> Vec<Vec<String>> {
    let heads = HEADS.iter().map(|head| (*head).to_owned()).collect();
    std::iter::once(heads).chain(rows.iter().map(row_cells)).collect()
}

fn row_cells(row: &Measured) -> Vec<String> {
    let list = |values: &ByProcess, names: &[&str], digits: usize| {
        let value =
            |name: &&str| values.get(name).map_or("–".to_owned(), |value| format!("{value:.digits$}"));
        names.iter().map(value).collect::<Vec<_>>().join(" ")
    };
    let cpu = &row.cpu_ms_per_event;
    vec![
        row.scenario.clone(),
        thousands(row.events_per_second),
        thousands(row.deliveries_per_second),
        row.floor_ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
        short(row.p50_ms),
        short(row.p99_ms),
        short(row.p999_ms),
        format!("{} | {}", list(cpu, &OURS, 3), list(cpu, &["load", "receiver"], 3)),
        format!("{:.0}", row.bytes_per_event),
        list(&row.peak_rss_mb, &OURS, 0),
    ]
}

/// Cells in columns, for a terminal.
pub(crate) fn table(cells: &[Vec<String>]) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        cells
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Cells as a table in Markdown.
pub(crate) fn markdown(cells: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "/")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut lines: Vec<String> = cells.iter().map(line).collect();
    if let Some(heads) = cells.first() {
        lines.insert(1, format!("|{}", "---|".repeat(heads.len())));
    }
    lines.join("\n")
}

/// A number with three digits that matter; a dash for what was not measured.
pub(crate) fn short(value: f64) -> String {
    if value == 0.0 {
        return "–".to_owned();
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// A whole number, its thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// To whole numbers, as a float.
pub(crate) fn rounded(value: f64) -> f64 {
    value.round()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_in_a_cell_makes_no_column() {
        let cells = [vec!["a | b".to_owned(), "c".to_owned()], vec!["1 | 2".to_owned(), "3".to_owned()]];
        assert_eq!(markdown(&cells), "| a / b | c |\n|---|---|\n| 1 / 2 | 3 |");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            ["1.23", "12.3", "123"],
            [short(1.234), short(12.34), short(123.4)].each_ref().map(|s| s.as_str())
        );
        assert_eq!([thousands(999.0), thousands(1_234_567.0)], ["999", "1,234,567"]);
    }

    #[test]
    fn the_median_of_rounds_keeps_each_value_with_its_own() {
        let round = |rate: f64, ratio: f64| Measured {
            events: 10,
            events_per_second: rate,
            floor_ratio: Some(ratio),
            ..Measured::default()
        };
        let row = Measured::median_of(&[round(1.0, 0.3), round(3.0, 0.1), round(2.0, 0.2)]);
        assert_eq!((row.events, row.events_per_second, row.floor_ratio), (30, 2.0, Some(0.2)));
    }
}
