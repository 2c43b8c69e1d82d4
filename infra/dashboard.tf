# Progress, limits, failures and money on one page. Names of metrics are those of names.json.
locals {
  m = local.names.metrics
  charts = [
    { title = "Runs done by phase", query = "sum by (backfill_id, phase) (${local.m["sluice.backfill.runs"]}{state=~\"succeeded|skipped|waived\"})", unit = "runs" },
    { title = "In flight against the window", query = "sum by (phase) (${local.m["sluice.backfill.runs"]}{state=\"in_flight\"}) / sum by (phase) (${local.m["sluice.backfill.window"]})", unit = "share" },
    { title = "Completions a second", query = "sum by (phase, status) (rate(${local.m["sluice.completions"]}[5m]))", unit = "1/s" },
    { title = "Throttled calls a second", query = "sum by (phase) (rate(${local.m["sluice.calls"]}{answer=\"throttled\"}[5m]))", unit = "1/s" },
    { title = "Time until calls are answered, p95", query = "histogram_quantile(0.95, sum by (le, phase) (rate(${local.m["sluice.call.duration"]}_bucket[10m])))", unit = "s" },
    { title = "Gate latency, p99", query = "histogram_quantile(0.99, sum by (le, phase) (rate(${local.m["sluice.gate.latency"]}_bucket[10m])))", unit = "s" },
    { title = "Failures for good", query = "sum by (phase, processor) (increase(${local.m["sluice.exhausted"]}[1h]))", unit = "runs an hour" },
    { title = "Dates that fail a check", query = "sum by (check) (increase(${local.m["sluice.check.failures"]}[1h]))", unit = "dates an hour" },
    { title = "Spend against budget and forecast", query = join(" or ", [for n in ["spend", "forecast", "budget"] : "label_replace(${local.m["sluice.backfill.${n}"]}, \"what\", \"${n}\", \"\", \"\")"]), unit = "USD" },
    { title = "Time since the last completion against patience", query = join(" or ", [for n in ["idle", "patience"] : "label_replace(${local.m["sluice.backfill.${n}"]}, \"what\", \"${n}\", \"\", \"\")"]), unit = "s" },
    { title = "Dead letters", query = "pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource=\"pubsub_subscription\", subscription_id=~\".*-dead[.]hold\"}", unit = "messages" },
    { title = "Oldest message that is not acknowledged", query = "pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource=\"pubsub_subscription\", subscription_id=~\"(dispatcher|completion-tracker|phase-gate|bigquery)[.].*\"}", unit = "s" },
    { title = "Messages that end in an error", query = "sum by (service) (rate(${local.m["sluice.messages"]}{result!=\"ok\"}[5m]))", unit = "1/s" },
  ]
}

resource "google_monitoring_dashboard" "sluice" {
  dashboard_json = jsonencode({
    displayName = "Sluice"
    mosaicLayout = {
      columns = 12
      tiles = [for i, c in local.charts : {
        xPos   = (i % 2) * 6
        yPos   = floor(i / 2) * 4
        width  = 6
        height = 4
        widget = {
          title = c.title
          xyChart = {
            dataSets = [{
              plotType        = "LINE"
              timeSeriesQuery = { prometheusQuery = c.query, unitOverride = c.unit }
            }]
          }
        }
      }]
    }
  })
  depends_on = [google_project_service.apis]
}
