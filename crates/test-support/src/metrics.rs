use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a process serves at `/metrics`, in the format that everything reads.
pub async fn metrics_at(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The value of a series, `name` or `name{label="value"}`.
pub fn sample(metrics: &str, series: &str) -> Option<f64> {
    let line =
        metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}

/// Fails unless the table in deploy/METRICS.md has exactly these metrics for `used_by`, each with its type and meaning.
pub fn check_metrics_table(used_by: &str, metrics: &str) {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/METRICS.md")).unwrap();
    let mut rows: BTreeMap<&str, [&str; 2]> = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `postrider_")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, users, meaning] = cells[..] else { panic!("not four cells: {line}") };
        if users.split(", ").any(|user| user == used_by) {
            rows.insert(name.trim_matches('`'), [kind, meaning]);
        }
    }
    let mut problems = String::new();
    let mut meaning = "";
    for line in metrics.lines() {
        if let Some((_, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            meaning = help.trim_end_matches('.');
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        if rows.remove(name) != Some([kind, meaning]) {
            writeln!(problems, "should be: | `{name}` | {kind} | … {used_by} … | {meaning} |").unwrap();
        }
    }
    for unknown in rows.keys() {
        writeln!(problems, "{unknown} is no metric of the {used_by}").unwrap();
    }
    assert!(problems.is_empty(), "deploy/METRICS.md:\n{problems}");
}

/// Fails where an alert or a dashboard selects series by labels that the metrics of this process do not have. Metrics of other
/// processes are passed over.
pub fn check_selectors(metrics: &str) {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");
    let mut files = vec![format!("{deploy}/prometheus/alerts.yaml")];
    for name in ["overview", "delivery", "dispatcher"] {
        files.push(format!("{deploy}/grafana/dashboards/{name}.json"));
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap().replace("\\\"", "\"");
        for selection in text.split("postrider_").skip(1) {
            let end =
                selection.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(selection.len());
            let (name, rest) = selection.split_at(end);
            let Some((labels, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            let name = format!("postrider_{name}{{");
            let series: Vec<&str> = metrics.lines().filter(|line| line.starts_with(&name)).collect();
            for (label, values) in labels.split(',').filter_map(|label| label.split_once('=')) {
                let is_excluded = label.ends_with('!');
                for value in values.trim_matches(['~', '"']).split('|').filter(|_| !is_excluded) {
                    let wanted = format!("{label}=\"{value}\"");
                    let is_there = series.is_empty() || series.iter().any(|series| series.contains(&wanted));
                    assert!(is_there, "{file}: no {name}{wanted}}}");
                }
            }
        }
    }
}
