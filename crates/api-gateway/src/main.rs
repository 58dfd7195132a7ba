//! The gateway's process.

use std::process::ExitCode;

use api_gateway::config::ProcessConfig;
use api_gateway::{Config, Gateway};
use service::{EXIT_CONFIGURATION, EXIT_SCHEMA, VERSION, health, metrics, secret_files, shutdown, telemetry};
use store::MigrationError;
use traces::Exporter;
use tracing::{error, info};

const HELP: &str = "Serves the REST API. Configured by environment variables; see the table in the README.

Usage: api-gateway            run
       api-gateway health     ask the one that runs on this machine whether it is ready
       api-gateway --version";

#[tokio::main]
async fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => run().await,
        Some("health") => check_health().await,
        Some(other) => service::explain(other, "api-gateway", HELP),
    }
}

async fn run() -> ExitCode {
    service::install_crypto();
    let config = match ProcessConfig::load() {
        Ok(config) => config,
        Err(error) => return service::refuse_to_start(&error, EXIT_CONFIGURATION),
    };
    if let Err(error) = telemetry::init(&config.log, config.log_format) {
        return service::refuse_to_start(&error, EXIT_CONFIGURATION);
    }
    if let Err(error) = config.gateway.store.wait_for_schema().await {
        let code = if matches!(error, MigrationError::Pending { .. }) { EXIT_SCHEMA } else { 1 };
        return service::refuse_to_start(&error, code);
    }
    match serve(config).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            error!(error = format!("{error:#}"), "the gateway failed");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: ProcessConfig) -> anyhow::Result<bool> {
    let stop = shutdown::on_signal()?;
    tokio::spawn(secret_files::watch(config.secret_files, secret_files::INTERVAL, stop.clone()));
    let mut registry = metrics::registry();
    let (endpoint, ratio) = config.traces;
    let (tracer, exporter) = Exporter::start(endpoint, ratio, "postrider-gateway", VERSION)?;
    let gateway = Gateway::start(Config { tracer, ..config.gateway }, &mut registry)?;
    let (address, health) = health::serve(config.health_address, gateway.readiness(), registry)?;
    let health_handle = health.handle();
    let health = tokio::spawn(health);
    info!(version = VERSION, address = %gateway.address(), health = %address, "gateway started");
    stop.cancelled().await;
    let in_time = gateway.shut_down().await;
    exporter.shut_down().await;
    health_handle.stop(false).await;
    health.await??;
    info!(in_time, "gateway stopped");
    Ok(in_time)
}

async fn check_health() -> ExitCode {
    match ProcessConfig::load() {
        Ok(config) if health::is_ready(config.gateway.http_address).await => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => service::refuse_to_start(&error, EXIT_CONFIGURATION),
    }
}
