use std::time::Duration;

use anyhow::bail;
use broker::Inspection;
use chrono::{TimeDelta, Utc};
use service::values::Networks;
use store::{Keyring, MigrationError, Store, StoreError};

use crate::dead_letters::Broker;
use crate::style;

/// Find out what is wrong with an installation, and what to do about it (operators)
///
/// Looks at the database, the broker, the schema, partitions, clocks, keys and addresses, with the configuration of gateways
/// and dispatchers, and changes nothing. Fails if something is wrong; what is only worth knowing is marked with `note`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, env = "POSTRIDER_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[command(flatten)]
    broker: Broker,
    // Parsed later: clap would repeat a value that it cannot read, and this one is secret.
    /// The keys, as gateways and dispatchers have them
    #[arg(long, env = "POSTRIDER_ENCRYPTION_KEYS", hide_env_values = true)]
    encryption_keys: String,
    /// Where the API is; not looked at when absent
    #[arg(long, env = "POSTRIDER_URL")]
    url: Option<String>,
    /// As gateways and dispatchers have it
    #[arg(long, env = "POSTRIDER_RECEIVER_ALLOW_HTTP", default_value_t = false, action = clap::ArgAction::Set)]
    receiver_allow_http: bool,
    /// As gateways and dispatchers have it
    #[arg(long, env = "POSTRIDER_RECEIVER_ALLOWED_NETWORKS", default_value = "")]
    receiver_allowed_networks: String,
}

/// The oldest Postgres that is supported.
const OLDEST_POSTGRES: i32 = 150_000;
/// The oldest RabbitMQ that is supported.
const OLDEST_RABBITMQ: (Option<u32>, Option<u32>) = (Some(3), Some(10));
/// Fewer days than this with partitions ahead mean that nobody makes them.
const FEWEST_DAYS_AHEAD: i64 = 2;
/// From where on clocks are called apart.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(5);
/// From when on a due delivery should long have been made.
const LATE: TimeDelta = TimeDelta::minutes(2);
/// Two to three minutes are usual; this is far behind.
const AUDIT_BEHIND: TimeDelta = TimeDelta::minutes(30);
/// How long the API may take to answer.
const API_TIMEOUT: Duration = Duration::from_secs(5);

enum Finding {
    /// As it should be.
    Good(&'static str, String),
    /// Worth knowing.
    Note(&'static str, String, String),
    /// Wrong, and what to do about it.
    Bad(&'static str, String, String),
}

use Finding::{Bad, Good, Note};

#[expect(clippy::print_stdout, reason = "the command's output")]
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut findings = look_at_database(args).await;
    findings.extend(look_at_broker(args).await?);
    findings.extend(look_at_addresses(args).await);
    let mut wrong = 0;
    for finding in &findings {
        match finding {
            Good(what, state) => println!("{}    {what}: {state}", style::green("ok")),
            Note(what, state, advice) => {
                println!("{}  {what}: {state}\n      {advice}", style::yellow("note"))
            }
            Bad(what, state, advice) => {
                wrong += 1;
                println!("{}   {what}: {state}\n      {advice}", style::red("bad"));
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} thing(s) are wrong");
    }
    println!("{}", style::green("nothing is wrong"));
    Ok(())
}

async fn look_at_database(args: &Args) -> Vec<Finding> {
    let keys: Result<Keyring, _> = args.encryption_keys.parse();
    let store = match Store::new(&args.database_url, 1) {
        Ok(store) => store,
        Err(error) => {
            return vec![Bad("database", error.to_string(), "mend POSTRIDER_DATABASE_URL".to_owned())];
        }
    };
    let (number, version) = match store.server_version().await {
        Ok(version) => version,
        Err(error) => {
            let advice =
                "is Postgres running, and do host, port, user and password in POSTRIDER_DATABASE_URL fit?";
            return vec![Bad("database", error.to_string(), advice.to_owned())];
        }
    };
    let mut findings = vec![if number < OLDEST_POSTGRES {
        Bad("database", format!("PostgreSQL {version}"), "upgrade it to 15 or later".to_owned())
    } else {
        Good("database", format!("PostgreSQL {version}"))
    }];
    findings.push(match store.time().await {
        Ok(time) => clock(time - Utc::now()),
        Err(error) => unreadable("clock", &error),
    });
    match store.check_schema().await {
        Ok(()) => findings.push(Good("schema", "up to date with this version".to_owned())),
        Err(MigrationError::Pending { pending }) => {
            let advice =
                "run `postrider migrate`; gateways and dispatchers of this version do not start before"
                    .to_owned();
            findings.push(Bad("schema", format!("{pending} migration(s) behind this version"), advice));
            return findings; // what follows would ask for tables that are not there yet
        }
        Err(error) => {
            findings.push(Bad("schema", error.to_string(), "run `postrider migrate`".to_owned()));
            return findings;
        }
    }
    findings.push(partitions(&store).await);
    findings.push(match keys {
        Ok(keys) => secrets(&store, &keys).await,
        Err(error) => Bad(
            "keys",
            error.to_string(),
            "POSTRIDER_ENCRYPTION_KEYS must be those of gateways and dispatchers".to_owned(),
        ),
    });
    findings.push(backlog(&store).await);
    findings.push(audit(&store).await);
    findings
}

fn clock(apart: TimeDelta) -> Finding {
    let state = format!("this machine's and the database's are {} ms apart", apart.num_milliseconds().abs());
    if apart.abs() <= CLOCKS_APART {
        return Good("clock", state);
    }
    let advice = "let NTP set both; signatures carry the time, and receivers refuse old ones".to_owned();
    Bad("clock", state, advice)
}

async fn partitions(store: &Store) -> Finding {
    let days = match store.partition_days_ahead(Utc::now().date_naive()).await {
        Ok(days) => days,
        Err(error) => return unreadable("partitions", &error),
    };
    let state = if days < 0 { "today has none".to_owned() } else { format!("there for {days} more day(s)") };
    if days >= FEWEST_DAYS_AHEAD {
        return Good("partitions", state);
    }
    let advice = "run `postrider migrate`, which makes them; a dispatcher makes them every hour, and logs why it cannot";
    Bad("partitions", state, advice.to_owned())
}

async fn secrets(store: &Store, keys: &Keyring) -> Finding {
    let by_key = match store.secrets_by_key().await {
        Ok(by_key) => by_key,
        Err(error) => return unreadable("keys", &error),
    };
    let named = |found: &store::SecretsOfKey| {
        format!("{} under {}", found.secrets, found.key_id.as_deref().unwrap_or("no key, in plain"))
    };
    let is_known = |found: &&store::SecretsOfKey| found.key_id.as_deref().is_none_or(|id| keys.contains(id));
    let unknown: Vec<String> = by_key.iter().filter(|found| !is_known(found)).map(named).collect();
    if !unknown.is_empty() {
        let state = format!("secrets that cannot be read: {}", unknown.join(", "));
        let advice =
            "add these keys to POSTRIDER_ENCRYPTION_KEYS again, at its end; deliveries that need them wait";
        return Bad("keys", state, advice.to_owned());
    }
    let stale: Vec<String> =
        by_key.iter().filter(|found| found.key_id.as_deref() != keys.first_id()).map(named).collect();
    if !stale.is_empty() {
        let state = format!("secrets that are not under the first key: {}", stale.join(", "));
        return Note("keys", state, "`postrider keys rotate` encrypts them with it".to_owned());
    }
    let count: i64 = by_key.iter().map(|found| found.secrets).sum();
    Good("keys", format!("{count} secret(s), all under the first key"))
}

async fn backlog(store: &Store) -> Finding {
    let now = Utc::now();
    let backlog = match store.backlog(now).await {
        Ok(backlog) => backlog,
        Err(error) => return unreadable("deliveries", &error),
    };
    let age = backlog.oldest_due_at.map_or(TimeDelta::zero(), |since| now - since);
    let state = format!(
        "{} due, the oldest for {} s; {} wait for their webhook; {} are tried later (each counted up to {})",
        backlog.due,
        age.num_seconds(),
        backlog.waiting,
        backlog.later,
        store::MOST_COUNTED
    );
    if age <= LATE {
        return Good("deliveries", state);
    }
    Bad("deliveries", state, "are dispatchers running, and is the database quick? Add dispatchers".to_owned())
}

async fn audit(store: &Store) -> Finding {
    let progress = match store.audit_progress().await {
        Ok(Some(progress)) => progress,
        Ok(None) => {
            let advice = "dispatchers begin with it by themselves".to_owned();
            return Note("audit", "never made".to_owned(), advice);
        }
        Err(error) => return unreadable("audit", &error),
    };
    let behind = Utc::now() - progress.audited_until;
    let state = format!(
        "{} event(s) audited, {} deliveries found lost, {} scheduled again, {} s behind",
        progress.events,
        progress.lost,
        progress.repaired,
        behind.num_seconds()
    );
    if progress.lost > progress.repaired {
        return Bad(
            "audit",
            state,
            "run `postrider audit --repair` for the time that the log names".to_owned(),
        );
    }
    if behind > AUDIT_BEHIND {
        return Bad(
            "audit",
            state,
            "are dispatchers running? They audit, and log what keeps them from it".to_owned(),
        );
    }
    Good("audit", state)
}

async fn look_at_broker(args: &Args) -> anyhow::Result<Vec<Finding>> {
    Ok(match args.broker.config()?.inspect().await {
        Ok(inspection) => judge(&inspection),
        Err(error) => {
            let advice =
                "is RabbitMQ running, and do host, port, user and password in POSTRIDER_AMQP_URL fit?";
            vec![Bad("broker", error, advice.to_owned())]
        }
    })
}

fn judge(inspection: &Inspection) -> Vec<Finding> {
    let mut findings = vec![broker_version(inspection.version.as_deref())];
    if !inspection.missing.is_empty() {
        let state = format!("not there: {}", inspection.missing.join(", "));
        findings.push(Bad(
            "topology",
            state,
            "start a gateway or a dispatcher: each declares what is missing".to_owned(),
        ));
    } else if let Some(mismatch) = &inspection.mismatch {
        let advice =
            "it was declared otherwise by somebody else: see \"Moving a queue\" in deploy/RUNBOOK.md";
        findings.push(Bad("topology", mismatch.clone(), advice.to_owned()));
    } else {
        findings.push(Good("topology", "exchanges and queues are there and as they should be".to_owned()));
    }
    for queue in &inspection.queues {
        let state = format!("{} message(s), {} consumer(s)", queue.messages, queue.consumers);
        let what = "queue";
        let state = format!("{}: {state}", queue.name);
        let is_dead = queue.name.ends_with(".dead");
        findings.push(if is_dead && queue.messages > 0 {
            Note(what, state, "`postrider dead-letters list` says why".to_owned())
        } else if !is_dead && queue.consumers == 0 {
            Bad(
                what,
                state,
                "no dispatcher takes events over: start one, or read why its log says it is not consuming"
                    .to_owned(),
            )
        } else {
            Good(what, state)
        });
    }
    findings
}

fn broker_version(version: Option<&str>) -> Finding {
    let Some(version) = version else { return Good("broker", "answers".to_owned()) };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let is_old = (numbers.next(), numbers.next()) < OLDEST_RABBITMQ;
    let state = format!("RabbitMQ {version}");
    if !is_old {
        return Good("broker", state);
    }
    Bad(
        "broker",
        state,
        "upgrade it to 3.10 or later, see \"Upgrading RabbitMQ\" in deploy/RUNBOOK.md".to_owned(),
    )
}

async fn look_at_addresses(args: &Args) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(url) = &args.url {
        findings.push(api(url).await);
    }
    let networks = &args.receiver_allowed_networks;
    let advice =
        "right for development; elsewhere customers could reach your own network, or payloads be read";
    findings.push(if let Err(error) = networks.parse::<Networks>() {
        Bad("receivers", error.to_string(), "mend POSTRIDER_RECEIVER_ALLOWED_NETWORKS".to_owned())
    } else if args.receiver_allow_http || !networks.is_empty() {
        let http = if args.receiver_allow_http { "http:// is allowed" } else { "https:// only" };
        let networks = if networks.is_empty() { "public addresses only" } else { networks };
        Note("receivers", format!("{http}; {networks}"), advice.to_owned())
    } else {
        Good("receivers", "https:// and public addresses only".to_owned())
    });
    findings
}

async fn api(url: &str) -> Finding {
    let ready = format!("{}/health/ready", url.trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(API_TIMEOUT).build();
    let answer = match client {
        Ok(client) => client.get(&ready).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => readiness(url, answer.status().is_success(), &answer.bytes().await.unwrap_or_default()),
        Err(error) => {
            let advice = "is a gateway running there, and is POSTRIDER_URL right?".to_owned();
            Bad("API", format!("{ready} cannot be reached: {error}"), advice)
        }
    }
}

/// What a gateway says of itself.
fn readiness(url: &str, is_ready: bool, report: &[u8]) -> Finding {
    let report: serde_json::Value = serde_json::from_slice(report).unwrap_or_default();
    let checks = report["checks"].as_array().into_iter().flatten();
    let lacking = checks.filter(|check| check["ok"] == false).filter_map(|check| check["name"].as_str());
    let lacking = lacking.collect::<Vec<_>>().join(", ");
    let advice =
        "the gateway's log says why; `token keys` are those at POSTRIDER_JWT_JWKS_URL, which were never read";
    match (is_ready, lacking.is_empty()) {
        (true, true) => Good("API", format!("{url} is ready")),
        (true, false) => Note("API", format!("{url} is ready, but lacks: {lacking}"), advice.to_owned()),
        (false, _) => Bad("API", format!("{url} is not ready, and lacks: {lacking}"), advice.to_owned()),
    }
}

fn unreadable(what: &'static str, error: &StoreError) -> Finding {
    Bad(what, error.to_string(), "the database answered before: look at its log".to_owned())
}
