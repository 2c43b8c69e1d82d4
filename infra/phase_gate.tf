# The phase-gate: opens phases, and runs blocking checks. Pub/Sub pushes to it.
resource "google_service_account" "phase_gate" {
  account_id   = "sluice-phase-gate"
  display_name = "Sluice: phase-gate"
}

locals {
  phase_gate = "serviceAccount:${google_service_account.phase_gate.email}"
}

resource "google_pubsub_topic_iam_member" "phase_gate" {
  for_each = toset(["phase-triggers", "backfill-events"])
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.phase_gate
}

resource "google_pubsub_topic_iam_member" "phase_gate_dead" {
  topic  = google_pubsub_topic.dead["phase-completions"].id
  role   = "roles/pubsub.publisher"
  member = local.phase_gate
}

resource "google_project_iam_member" "phase_gate_documents" {
  project = var.project
  role    = "roles/datastore.user"
  member  = local.phase_gate
  condition {
    title      = local.only_sluice.title
    expression = local.only_sluice.expression
  }
}

resource "google_project_iam_member" "phase_gate_jobs" {
  project = var.project
  role    = "roles/bigquery.jobUser"
  member  = local.phase_gate
}

resource "google_bigquery_dataset_iam_member" "phase_gate" {
  for_each   = var.pipeline_datasets
  dataset_id = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.phase_gate
}
