# The completion-tracker: adds outcomes to the facts. Pub/Sub pushes to it.
resource "google_service_account" "completion_tracker" {
  account_id   = "sluice-completion-tracker"
  display_name = "Sluice: completion-tracker"
}

locals {
  completion_tracker = "serviceAccount:${google_service_account.completion_tracker.email}"
}

resource "google_pubsub_topic_iam_member" "completion_tracker" {
  for_each = toset(["phase-completions", "backfill-events"])
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.completion_tracker
}

resource "google_pubsub_topic_iam_member" "completion_tracker_dead" {
  for_each = toset([for s in values(local.subscriptions) : s.topic if s.consumer == "completion-tracker"])
  topic    = google_pubsub_topic.dead[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.completion_tracker
}

resource "google_project_iam_member" "completion_tracker_documents" {
  project = var.project
  role    = "roles/datastore.user"
  member  = local.completion_tracker
  condition {
    title      = local.only_sluice.title
    expression = local.only_sluice.expression
  }
}

resource "google_storage_bucket_iam_member" "completion_tracker" {
  bucket = google_storage_bucket.pipelines.name
  role   = "roles/storage.objectViewer"
  member = local.completion_tracker
}

# Processors report here.
resource "google_pubsub_topic_iam_member" "processors" {
  for_each = var.processor_accounts
  topic    = google_pubsub_topic.topics["processor-completions"].id
  role     = "roles/pubsub.publisher"
  member   = "serviceAccount:${each.key}"
}
