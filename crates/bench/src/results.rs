//! All that a run found, with what is needed to judge it: machine, versions, date.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;

use crate::bench::{Bench, Scale};
use crate::output::progress;
use crate::plot::Chart;
use crate::report::{Measured, cells, markdown, table};

/// What a run found.
#[derive(Serialize)]
pub(crate) struct Results {
    machine: Machine,
    scale: &'static str,
    scenarios: Vec<Measured>,
    /// What the table has no column for, as sentences.
    findings: Vec<String>,
    #[serde(skip)]
    charts: Vec<Chart>,
}

#[derive(Serialize)]
struct Machine {
    date: String,
    processor: String,
    cores: usize,
    memory_gb: f64,
    kernel: String,
    postgres: String,
    rabbitmq: String,
    commit: String,
}

impl Results {
    pub(crate) async fn begin(bench: &Bench) -> anyhow::Result<Self> {
        let machine = Machine {
            date: Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
            processor: value_in("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_gb: memory_gigabytes(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            postgres: bench.database.version().await?,
            rabbitmq: std::env::var("POSTRIDER_BENCH_RABBITMQ").unwrap_or_default(),
            commit: std::env::var("POSTRIDER_BENCH_COMMIT").unwrap_or_default(),
        };
        let scale = match bench.scale {
            Scale::Small => "small",
            Scale::Full => "full",
        };
        Ok(Self { machine, scale, scenarios: Vec::new(), findings: Vec::new(), charts: Vec::new() })
    }

    /// Takes a row in, and says what it says.
    pub(crate) fn add(&mut self, row: Measured) {
        progress(&row.line());
        self.scenarios.push(row);
    }

    /// Takes in what the table has no column for.
    pub(crate) fn find(&mut self, sentence: String) {
        progress(&sentence);
        self.findings.push(sentence);
    }

    pub(crate) fn chart(&mut self, chart: Chart) {
        self.charts.push(chart);
    }

    pub(crate) fn table(&self) -> String {
        let findings: String = self.findings.iter().map(|finding| format!("\n- {finding}")).collect();
        format!("{}\n{findings}", table(&cells(&self.scenarios)))
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    pub(crate) fn plot(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        for chart in &self.charts {
            let file = directory.join(format!("{}.svg", chart.name));
            fs::write(&file, chart.svg()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let machine = &self.machine;
        let findings: String = self.findings.iter().map(|finding| format!("- {finding}\n")).collect();
        let charts: String = self
            .charts
            .iter()
            .map(|chart| format!("![{}](benchmarks/{}.svg)\n", chart.title, chart.name))
            .collect();
        let text = format!(
            "# Benchmarks\n\nWritten by `./scripts/bench --write`, scale `{}`, on {}, commit {}. Everything, load and receivers \
             included, shares one machine:\n{} cores of {}, {:.0} GB, Linux {}, Postgres {}, RabbitMQ {}, durability on.\nThe \
             machine's own speed drifts; ratios within a run compare, figures of different runs do not.\n\n{}\n\n{findings}\n{charts}",
            self.scale,
            machine.date,
            machine.commit,
            machine.cores,
            machine.processor,
            machine.memory_gb,
            machine.kernel,
            machine.postgres,
            machine.rabbitmq,
            markdown(&cells(&self.scenarios)),
        );
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn value_in(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn memory_gigabytes() -> f64 {
    let total = value_in("/proc/meminfo", "MemTotal");
    let kilobytes: f64 = total.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    kilobytes / 1024.0 / 1024.0
}
