//! `/metrics`: what a process has counted, for Prometheus.

use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::{COMMIT, VERSION};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// An empty registry: it holds which build this is, and gives every name its beginning.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("postrider");
    let build = [("version", VERSION), ("commit", COMMIT.unwrap_or("unknown"))];
    registry.register(
        "build",
        "The version of this build, and the commit it was made from",
        Info::new(build),
    );
    registry
}

/// Answers in the format that is asked for: OpenMetrics, or the older one that everything reads.
pub(crate) async fn show(request: HttpRequest, registry: web::Data<Registry>) -> HttpResponse {
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return HttpResponse::InternalServerError().finish();
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains(OPEN_METRICS) {
        let content_type = format!("{OPEN_METRICS}; version=1.0.0; charset=utf-8");
        return HttpResponse::Ok().content_type(content_type).body(text);
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(older_format(&text))
}

/// In the older format a metric has the name of its samples, suffix and all, and there is neither a unit nor an end.
fn older_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, help)) = help.filter(|(helped, _)| *helped == name) {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn in_the_older_format_a_metric_is_called_as_its_samples_are() {
        let mut registry = registry();
        registry.register("sent_messages", "Messages sent", Counter::<u64>::default());
        registry.register_with_unit("age", "Age", Unit::Seconds, Gauge::<i64>::default());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let build = format!("postrider_build_info{{version=\"{VERSION}\",commit=");
        assert!(text.contains(&build), "{text}");
        let older = older_format(&text);
        assert!(older.contains(&build), "{older}");
        for expected in [
            "# HELP postrider_sent_messages_total Messages sent.\n# TYPE postrider_sent_messages_total counter\n\
             postrider_sent_messages_total 0\n",
            "# TYPE postrider_build_info gauge\n",
            "# HELP postrider_age_seconds Age.\n# TYPE postrider_age_seconds gauge\npostrider_age_seconds 0\n",
        ] {
            assert!(older.contains(expected), "{expected} in {older}");
        }
        assert!(!older.contains("# EOF") && !older.contains("# UNIT"));
    }
}
