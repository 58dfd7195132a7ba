//! The dispatcher's process.

use std::process::ExitCode;
use std::sync::Arc;

use dispatcher::config::ProcessConfig;
use dispatcher::{Dispatcher, SharedClock};
use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
use service::{EXIT_CONFIGURATION, EXIT_SCHEMA, VERSION, health, metrics, secret_files, shutdown, telemetry};
use store::MigrationError;
use traces::Exporter;
use tracing::{error, info};

const HELP: &str = "Delivers webhooks. Configured by environment variables; see the table in the README.

Usage: dispatcher            run
       dispatcher health     ask the one that runs on this machine whether it is ready
       dispatcher --version";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {
            give_way();
            run()
        }
        Some("health") => check_health(),
        Some(other) => service::explain(other, "dispatcher", HELP),
    }
}

/// Deliveries are work in bulk. On a processor that is busy they let others finish who are waited for, the gateway and the broker
/// among them, instead of interrupting them. Holds for all threads that are started from here on; a system that does not allow it
/// runs them as any other.
fn give_way() {
    let _ = set_scheduler(Pid::current_thread(), Scheduler::SCHED_BATCH, SchedulerParams { priority: 0 });
}

#[tokio::main]
async fn run() -> ExitCode {
    service::install_crypto();
    let config = match ProcessConfig::load() {
        Ok(config) => config,
        Err(error) => return service::refuse_to_start(&error, EXIT_CONFIGURATION),
    };
    if let Err(error) = telemetry::init(&config.log, config.log_format) {
        return service::refuse_to_start(&error, EXIT_CONFIGURATION);
    }
    if let Err(error) = config.dispatcher.store.wait_for_schema().await {
        let code = if matches!(error, MigrationError::Pending { .. }) { EXIT_SCHEMA } else { 1 };
        return service::refuse_to_start(&error, code);
    }
    match serve(config).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!(error = format!("{error:#}"), "the dispatcher failed");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: ProcessConfig) -> anyhow::Result<bool> {
    let stop = shutdown::on_signal()?;
    tokio::spawn(secret_files::watch(config.secret_files, secret_files::INTERVAL, stop.clone()));
    let mut dispatcher = config.dispatcher;
    dispatcher.clock = Arc::new(SharedClock::start(dispatcher.store.clone()).await);
    let (endpoint, ratio) = config.traces;
    let (tracer, exporter) = Exporter::start(endpoint, ratio, "postrider-dispatcher", VERSION)?;
    dispatcher.tracer = tracer;
    let mut registry = metrics::registry();
    let dispatcher = Dispatcher::start(dispatcher, &mut registry)?;
    let (address, health) = health::serve(config.health_address, dispatcher.readiness(), registry)?;
    let health_handle = health.handle();
    let health = tokio::spawn(health);
    info!(version = VERSION, health = %address, "dispatcher started");
    stop.cancelled().await;
    let in_time = dispatcher.shut_down().await;
    exporter.shut_down().await;
    health_handle.stop(false).await;
    health.await??;
    info!(in_time, "dispatcher stopped");
    Ok(in_time)
}

#[tokio::main]
async fn check_health() -> ExitCode {
    match ProcessConfig::load() {
        Ok(config) if health::is_ready(config.health_address).await => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => service::refuse_to_start(&error, EXIT_CONFIGURATION),
    }
}
