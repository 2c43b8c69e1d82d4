# The console: the API. It publishes requests and controls, and reads.
resource "google_service_account" "console" {
  account_id   = "sluice-console"
  display_name = "Sluice: console"
}

locals {
  console = "serviceAccount:${google_service_account.console.email}"
}

# It also takes what processors report over HTTP, and journals what sluice verify finds.
resource "google_pubsub_topic_iam_member" "console" {
  for_each = toset(["backfill-requests", "backfill-controls", "processor-completions", "backfill-events"])
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.console
}

resource "google_pubsub_topic_iam_member" "console_adapters" {
  for_each = local.adapters
  topic    = each.value
  role     = "roles/pubsub.publisher"
  member   = local.console
}

# Preflight looks whether topics are there.
resource "google_pubsub_topic_iam_member" "console_looks" {
  for_each = toset(["backfill-requests", "backfill-controls"])
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.viewer"
  member   = local.console
}

resource "google_project_iam_member" "console_documents" {
  project = var.project
  role    = "roles/datastore.viewer"
  member  = local.console
  condition {
    title      = local.only_sluice.title
    expression = local.only_sluice.expression
  }
}

resource "google_project_iam_member" "console_jobs" {
  project = var.project
  role    = "roles/bigquery.jobUser"
  member  = local.console
}

resource "google_bigquery_dataset_iam_member" "console" {
  for_each   = setunion(var.pipeline_datasets, [google_bigquery_dataset.sluice.dataset_id])
  dataset_id = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.console
}

# Preflight asks targets for their health.
resource "google_cloud_run_v2_service_iam_member" "console_calls" {
  for_each = var.processor_services
  name     = each.key
  location = var.region
  role     = "roles/run.invoker"
  member   = local.console
}

resource "google_storage_bucket_iam_member" "console" {
  bucket = google_storage_bucket.pipelines.name
  role   = "roles/storage.objectViewer"
  member = local.console
}
