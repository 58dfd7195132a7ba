use std::time::Instant;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use store::{AuditReport, Pace, Store};

use crate::style;
use crate::values::Delay;

/// Prove that no accepted event is lost (operators)
///
/// Looks at every event handed over in a time range, and at every webhook that wanted it. Each such delivery must be
/// delivered, finally failed or cancelled, scheduled, or under way. Prints the ones that are not, with the reason, and
/// fails if there are any; --repair schedules them. Reads only, unless told to repair, and may run at any time.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// How far back to look: a number and s, m, h or d
    #[arg(long, default_value = "24h", conflicts_with = "from")]
    since: Delay,
    /// Begin of the range, like 2026-05-30T10:00:00Z
    #[arg(long)]
    from: Option<DateTime<Utc>>,
    /// End of the range; now when absent
    #[arg(long)]
    to: Option<DateTime<Utc>>,
    /// Schedule at once what is found to be lost
    #[arg(long)]
    repair: bool,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let store = Store::new(&args.database_url, 1)?;
    store.check_schema().await?;
    let now = Utc::now();
    let to = args.to.unwrap_or(now);
    let from = match args.from {
        Some(from) => from,
        None => now - TimeDelta::from_std(args.since.0)?,
    };
    let began = Instant::now();
    let report = store.audit(from, to, Pace::Full).await?;
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    println!("events handed over from {} to {}", time(from), time(to));
    print_counts(&report);
    for finding in &report.findings {
        println!(
            "{} event {} for webhook {} of tenant {}, accepted {}: {}",
            style::red("lost:"),
            finding.key.event_id,
            finding.key.webhook_id,
            finding.tenant_id,
            time(finding.accepted_at),
            finding.problem.explanation(),
        );
    }
    println!("{}", style::dim(&format!("{} ms", began.elapsed().as_millis())));
    if report.lost == 0 {
        println!("{}", style::green("nothing is lost"));
        return Ok(());
    }
    if args.repair {
        let repaired = store.repair(&report.findings, now).await?;
        println!("{repaired} scheduled; run the audit again to see that nothing is left");
    }
    bail!("{} deliveries are lost", report.lost);
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn print_counts(report: &AuditReport) {
    for (name, count) in [
        ("events", report.events),
        ("delivered", report.delivered),
        ("finally failed or cancelled", report.failed),
        ("scheduled", report.scheduled),
        ("under way", report.under_way),
        ("not judged: webhook changed since", report.unjudged),
        ("lost", report.lost),
    ] {
        println!("{count:>12}  {name}");
    }
}
