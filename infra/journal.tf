# The journal: BigQuery writes what is published to backfill-events into a table of the message's own schema.
resource "google_bigquery_dataset" "sluice" {
  dataset_id    = "sluice"
  friendly_name = "Sluice"
  description   = "The journal of backfills"
  location      = local.location
  depends_on    = [google_project_service.apis]
}

resource "google_bigquery_table" "events" {
  dataset_id          = google_bigquery_dataset.sluice.dataset_id
  table_id            = "backfill_events"
  description         = "Every state change of every backfill; one line may stand twice, with the same id and at"
  schema              = file("${path.module}/schemas/backfill_events.json")
  clustering          = ["backfill_id", "kind"]
  deletion_protection = var.deletion_protection

  time_partitioning {
    type  = "DAY"
    field = "at"
  }
}

resource "google_pubsub_subscription" "journal" {
  name  = "bigquery.backfill-events"
  topic = google_pubsub_topic.topics["backfill-events"].id

  bigquery_config {
    table               = "${var.project}.${google_bigquery_dataset.sluice.dataset_id}.${google_bigquery_table.events.table_id}"
    use_table_schema    = true
    drop_unknown_fields = true # a newer program may know more
  }
  expiration_policy {
    ttl = "" # never
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead["backfill-events"].id
    max_delivery_attempts = local.names.max_delivery_attempts
  }
  depends_on = [google_bigquery_table_iam_member.pubsub]
}

resource "google_pubsub_subscription_iam_member" "journal_dead_letters" {
  subscription = google_pubsub_subscription.journal.name
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:${local.pubsub}"
}

resource "google_bigquery_table_iam_member" "pubsub" {
  dataset_id = google_bigquery_dataset.sluice.dataset_id
  table_id   = google_bigquery_table.events.table_id
  role       = "roles/bigquery.dataEditor"
  member     = "serviceAccount:${local.pubsub}"
}
