# Requests by the clock are published like anybody else's.
resource "google_cloud_scheduler_job" "requests" {
  for_each  = var.requests
  name      = "sluice-request-${each.key}"
  region    = var.region
  schedule  = each.value.schedule
  time_zone = each.value.time_zone
  pubsub_target {
    topic_name = google_pubsub_topic.topics["backfill-requests"].id
    data       = base64encode(each.value.request)
  }
  retry_config {
    retry_count = 3
  }
}

# The tick asks the console every five minutes whether it answers: what is wrong with the region, its identity or its
# revision shows in the job's log before a person wants something. Timers are the dispatcher's own.
resource "google_cloud_scheduler_job" "tick" {
  name             = "sluice-tick"
  region           = var.region
  schedule         = "*/5 * * * *"
  attempt_deadline = "30s"
  http_target {
    http_method = "GET"
    uri         = "https://console-${local.host}/healthz"
    oidc_token {
      service_account_email = google_service_account.tick.email
      audience              = "https://console-${local.host}"
    }
  }
  depends_on = [google_project_service.apis]
}

resource "google_service_account" "tick" {
  account_id   = "sluice-tick"
  display_name = "Sluice: identity of the scheduler's tick"
}
