# Every service may send its own metrics and traces, and nothing else of the project.
locals {
  services = {
    dispatcher         = google_service_account.dispatcher.email
    completion-tracker = google_service_account.completion_tracker.email
    phase-gate         = google_service_account.phase_gate.email
    console            = google_service_account.console.email
  }
}

resource "google_project_iam_member" "telemetry" {
  for_each = { for pair in setproduct(keys(local.services), ["roles/monitoring.metricWriter", "roles/telemetry.tracesWriter", "roles/logging.logWriter"]) : "${pair[0]} ${pair[1]}" => pair }
  project  = var.project
  role     = each.value[1]
  member   = "serviceAccount:${local.services[each.value[0]]}"
}
