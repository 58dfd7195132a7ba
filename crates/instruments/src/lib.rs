//! What the metrics of the other crates are made of, so that counting costs an atomic addition: no lock, no allocation.
//!
//! Counters and gauges are the library's own. Its histograms take a lock for each value and its families one for each look-up,
//! so there are others here: a histogram of atomics, and series that are all made at the start.

mod histogram;
mod labelled;
mod reading;

pub use histogram::Histogram;
pub use labelled::{Label, Labelled, Labels};
pub use reading::Reading;

/// Bounds for what takes from a millisecond to a minute, in seconds.
pub const LATENCY_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];
/// Bounds for what can take days, because it waits for somebody, in seconds.
pub const WAIT_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
    28_800.0, 86_400.0, 259_200.0,
];
/// Bounds for how many travel together.
pub const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 500.0];
