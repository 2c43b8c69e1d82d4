# One policy for each rule of alerts.yaml.
locals {
  rules = { for r in yamldecode(file("${path.module}/alerts.yaml")).groups[0].rules : r.alert => r }
}

resource "google_monitoring_notification_channel" "email" {
  for_each     = var.alert_emails
  display_name = each.key
  type         = "email"
  labels = {
    email_address = each.key
  }
}

resource "google_monitoring_alert_policy" "alerts" {
  for_each              = local.rules
  display_name          = "Sluice: ${each.key}"
  combiner              = "OR"
  severity              = upper(each.value.labels.severity)
  notification_channels = [for c in google_monitoring_notification_channel.email : c.id]

  conditions {
    display_name = each.key
    condition_prometheus_query_language {
      query               = each.value.expr
      duration            = contains(keys(each.value), "for") ? "${tonumber(trimsuffix(each.value["for"], "m")) * 60}s" : "0s"
      evaluation_interval = "60s"
      alert_rule          = each.key
      rule_group          = "sluice"
    }
  }
  documentation {
    mime_type = "text/markdown"
    subject   = "Sluice: ${each.key}"
    content   = "${replace(each.value.annotations.summary, "/{{ [$]labels[.]([a-z_]+) }}/", "$${metric.label.$1}")}\n\nWhat to look at, and which command mends it: docs/operations.md#${each.value.annotations.runbook}"
  }
  depends_on = [google_project_service.apis]
}
