# The dispatcher: takes requests and controls, calls processors, keeps the timers.
resource "google_service_account" "dispatcher" {
  account_id   = "sluice-dispatcher"
  display_name = "Sluice: dispatcher"
}

locals {
  dispatcher = "serviceAccount:${google_service_account.dispatcher.email}"
}

resource "google_pubsub_topic_iam_member" "dispatcher" {
  for_each = toset(["backfill-requests", "processor-completions", "phase-completions", "backfill-events"]) # requests: reruns after a rollback
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.dispatcher
}

# Preflight looks whether topics are there.
resource "google_pubsub_topic_iam_member" "dispatcher_looks" {
  for_each = toset(["backfill-requests", "processor-completions", "phase-completions", "backfill-events"])
  topic    = google_pubsub_topic.topics[each.key].id
  role     = "roles/pubsub.viewer"
  member   = local.dispatcher
}

resource "google_pubsub_subscription_iam_member" "dispatcher" {
  for_each     = { for name, s in local.subscriptions : name => s if s.consumer == "dispatcher" }
  subscription = google_pubsub_subscription.subscriptions[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.dispatcher
}

resource "google_pubsub_subscription_iam_member" "dispatcher_looks" {
  for_each     = { for name, s in local.subscriptions : name => s if s.consumer == "dispatcher" }
  subscription = google_pubsub_subscription.subscriptions[each.key].name
  role         = "roles/pubsub.viewer"
  member       = local.dispatcher
}

# A message that says why it is no good is moved by the dispatcher itself.
resource "google_pubsub_topic_iam_member" "dispatcher_dead" {
  for_each = toset([for s in values(local.subscriptions) : s.topic if s.consumer == "dispatcher"])
  topic    = google_pubsub_topic.dead[each.key].id
  role     = "roles/pubsub.publisher"
  member   = local.dispatcher
}

resource "google_project_iam_member" "dispatcher_documents" {
  project = var.project
  role    = "roles/datastore.user"
  member  = local.dispatcher
  condition {
    title      = local.only_sluice.title
    expression = local.only_sluice.expression
  }
}

# Queries run as jobs of the project; job statistics are what spend and slot pressure are read from.
resource "google_project_iam_member" "dispatcher_jobs" {
  for_each = toset(["roles/bigquery.jobUser", "roles/bigquery.resourceViewer"])
  project  = var.project
  role     = each.key
  member   = local.dispatcher
}

resource "google_bigquery_dataset_iam_member" "dispatcher_reads" {
  for_each   = setunion(var.pipeline_datasets, [google_bigquery_dataset.sluice.dataset_id])
  dataset_id = each.key
  role       = "roles/bigquery.dataViewer"
  member     = local.dispatcher
}

# Rollback deletes, takes snapshots and puts them back; history is written where the pipeline says so.
resource "google_bigquery_dataset_iam_member" "dispatcher_writes" {
  for_each   = var.rollback_datasets
  dataset_id = each.key
  role       = "roles/bigquery.dataOwner" # creating and deleting snapshots is not an editor's
  member     = local.dispatcher
}

resource "google_cloud_run_v2_service_iam_member" "dispatcher_calls" {
  for_each = var.processor_services
  name     = each.key
  location = var.region
  role     = "roles/run.invoker"
  member   = local.dispatcher
}

resource "google_storage_bucket_iam_member" "dispatcher" {
  bucket = google_storage_bucket.pipelines.name
  role   = "roles/storage.objectViewer"
  member = local.dispatcher
}
