//! The product as it is delivered: its programs as processes, its API, and the receivers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::arrivals::Arrival;
use crate::http::{self, Connection};
use crate::usage::birth_of;

/// How long a program may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a program may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The product's programs.
    pub(crate) binaries: PathBuf,
    /// What a run leaves behind: `log/`, and `run/` with a record of each process for scripts/bench.
    pub(crate) directory: PathBuf,
}

/// A process that ends with this value.
pub(crate) struct Program {
    name: String,
    child: Child,
    id: u32,
    record: PathBuf,
}

impl Program {
    fn start(places: &Places, name: &str, command: &mut Command) -> anyhow::Result<Self> {
        // A group of its own, so that Ctrl-C reaches it through us alone.
        let child = command.kill_on_drop(true).process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        let id = child.id().with_context(|| format!("{name} has ended"))?;
        let record = places.directory.join("run").join(name);
        let birth = birth_of(id).with_context(|| format!("{name} has ended"))?;
        std::fs::write(&record, format!("{id} {birth}\n"))?;
        Ok(Self { name: name.to_owned(), child, id, record })
    }

    fn start_service(
        places: &Places,
        name: &str,
        binary: &str,
        setting: &str,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let address = free_address()?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(places.directory.join("log").join(format!("{name}.log")))?;
        let mut command = Command::new(places.binaries.join(binary));
        // What a program serves besides finds a port of its own.
        command.env("POSTRIDER_HEALTH_ADDRESS", "127.0.0.1:0").env(setting, address.to_string());
        run_as(&mut command, if binary == "api-gateway" { "GATEWAY" } else { "DISPATCHER" });
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok((Self::start(places, name, &mut command)?, address))
    }

    async fn wait_until_ready(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}); see its log", self.name);
            }
            let request = http::request("GET", address, "/health/ready", "", "");
            let answer = async { Connection::open(address).await?.status_of(&request).await };
            if answer.await.is_ok_and(|status| status == 200) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {START_TIMEOUT:?}; see its log",
                self.name
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        // The shell's own `kill`: the package that has a program of this name may be missing.
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.id.to_string()]).status().await?;
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            bail!("{} did not end within {STOP_TIMEOUT:?}", self.name);
        }
        Ok(())
    }
}

/// Gives a service its own users, where scripts/bench has made them.
fn run_as(command: &mut Command, service: &str) {
    for url in ["DATABASE_URL", "AMQP_URL"] {
        if let Ok(own) = std::env::var(format!("POSTRIDER_{service}_{url}")) {
            command.env(format!("POSTRIDER_{url}"), own);
        }
        for other in ["GATEWAY", "DISPATCHER"] {
            command.env_remove(format!("POSTRIDER_{other}_{url}"));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.record);
    }
}

/// A port that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Gateway and dispatchers.
pub(crate) struct Product {
    pub(crate) places: Places,
    gateway: Program,
    pub(crate) gateway_address: SocketAddr,
    dispatchers: Vec<Program>,
}

impl Product {
    /// Starts a gateway and a dispatcher, which declares what the gateway publishes to.
    pub(crate) async fn start(places: Places) -> anyhow::Result<Self> {
        let (gateway, gateway_address) =
            Program::start_service(&places, "gateway", "api-gateway", "POSTRIDER_HTTP_ADDRESS")?;
        let mut product = Self { places, gateway, gateway_address, dispatchers: Vec::new() };
        product.set_dispatchers(1).await?;
        product.gateway.wait_until_ready(gateway_address).await?;
        Ok(product)
    }

    pub(crate) fn gateway_id(&self) -> u32 {
        self.gateway.id
    }

    pub(crate) fn dispatcher_ids(&self) -> Vec<u32> {
        self.dispatchers.iter().map(|dispatcher| dispatcher.id).collect()
    }

    /// Starts or stops dispatchers until there are so many. Says how long that took.
    pub(crate) async fn set_dispatchers(&mut self, count: usize) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while self.dispatchers.len() > count {
            if let Some(dispatcher) = self.dispatchers.pop() {
                dispatcher.stop().await?;
            }
        }
        while self.dispatchers.len() < count {
            let name = format!("dispatcher-{}", self.dispatchers.len() + 1);
            let (mut dispatcher, address) =
                Program::start_service(&self.places, &name, "dispatcher", "POSTRIDER_HEALTH_ADDRESS")?;
            dispatcher.wait_until_ready(address).await?;
            self.dispatchers.push(dispatcher);
        }
        Ok(began.elapsed())
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.set_dispatchers(0).await?;
        self.gateway.stop().await
    }

    /// A token of a tenant's, from the product's own command line.
    pub(crate) async fn token(&self, tenant: Uuid) -> anyhow::Result<String> {
        let output = Command::new(self.places.binaries.join("postrider"))
            .args(["token", "--ttl", "1d", "--tenant", &tenant.to_string()])
            .output()
            .await
            .context("cannot run `postrider token`")?;
        ensure!(output.status.success(), "`postrider token`: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Creates a webhook, and gives its id.
    pub(crate) async fn create_webhook(&self, token: &str, url: &str) -> anyhow::Result<Uuid> {
        let body = json!({"url": url, "events": [crate::payload::EVENT_TYPE]});
        let (status, answer) = self.call("POST", "/api/webhooks", token, &body.to_string()).await?;
        ensure!(status == 201, "a webhook was not created: {status} {answer}");
        answer["data"]["id"].as_str().context("a webhook without an id")?.parse().context("a webhook's id")
    }

    pub(crate) async fn delete_webhook(&self, token: &str, id: Uuid) -> anyhow::Result<()> {
        let (status, answer) = self.call("DELETE", &format!("/api/webhooks/{id}"), token, "").await?;
        ensure!(status == 200, "a webhook was not deleted: {status} {answer}");
        Ok(())
    }

    /// A request for the newest part of a webhook's history.
    pub(crate) fn history_request(&self, token: &str, webhook: Uuid) -> Vec<u8> {
        let headers = format!("authorization: Bearer {token}\r\n");
        http::request("GET", self.gateway_address, &format!("/api/webhooks/{webhook}/history"), &headers, "")
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: &str) -> anyhow::Result<(u16, Value)> {
        let headers = format!("authorization: Bearer {token}\r\n");
        let request = http::request(method, self.gateway_address, path, &headers, body);
        let (status, body) = Connection::open(self.gateway_address).await?.exchange(&request).await?;
        Ok((status, serde_json::from_slice(&body)?))
    }
}

/// The process with the receivers.
pub(crate) struct Receiver {
    program: Program,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Receiver {
    pub(crate) async fn start(places: &Places) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("receiver").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = Program::start(places, "receiver", &mut command)?;
        let input = program.child.stdin.take().context("the receiver has no standard input")?;
        let output = program.child.stdout.take().context("the receiver has no standard output")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).await?;
        let port = line.trim().parse().context("the receiver did not say its port")?;
        Ok(Self { program, input, output, port })
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.id
    }

    /// What has arrived since this was last asked.
    pub(crate) async fn take(&mut self) -> anyhow::Result<Vec<Arrival>> {
        self.input.write_all(b"take\n").await?;
        self.input.flush().await?;
        let count = usize::try_from(self.output.read_u64_le().await.context("the receiver has ended")?)?;
        let mut bytes = vec![0; count * Arrival::BYTES];
        self.output.read_exact(&mut bytes).await?;
        bytes.chunks_exact(Arrival::BYTES).map(Arrival::decode).collect()
    }
}

/// Empties the directories of a run.
pub(crate) fn prepare(places: &Places) -> anyhow::Result<()> {
    for name in ["log", "run"] {
        let path: &Path = &places.directory.join(name);
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(())
}
