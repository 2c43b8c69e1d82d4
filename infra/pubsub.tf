resource "google_pubsub_schema" "messages" {
  for_each   = var.validate_messages ? { "backfill-requests" = "backfill_requested", "backfill-controls" = "backfill_controlled" } : {}
  name       = replace(each.value, "_", "-")
  type       = "PROTOCOL_BUFFER"
  definition = file("${path.module}/schemas/${each.value}.proto")
  depends_on = [google_project_service.apis]
}

resource "google_pubsub_topic" "topics" {
  for_each                   = toset(local.names.topics)
  name                       = each.key
  message_retention_duration = var.message_retention

  dynamic "schema_settings" {
    for_each = contains(keys(google_pubsub_schema.messages), each.key) ? [google_pubsub_schema.messages[each.key].id] : []
    content {
      schema   = schema_settings.value
      encoding = "JSON"
    }
  }
  depends_on = [google_project_service.apis]
}

# The platform's own topics: made here in a new project, else they must be there.
resource "google_pubsub_topic" "adapters" {
  for_each                   = var.create_adapter_topics ? var.adapter_topics : []
  name                       = each.key
  message_retention_duration = var.message_retention
}

data "google_pubsub_topic" "adapters" {
  for_each = var.create_adapter_topics ? [] : var.adapter_topics
  name     = each.key
}

locals {
  adapters = merge(
    { for name, t in google_pubsub_topic.adapters : name => t.id },
    { for name, t in data.google_pubsub_topic.adapters : name => t.id },
  )
  topic_ids = merge({ for name, t in google_pubsub_topic.topics : name => t.id }, local.adapters)
  subscriptions = merge(local.names.subscriptions, {
    for name in keys(local.adapters) : "completion-tracker.${name}" => { consumer = "completion-tracker", topic = name }
  })
  consumed = toset([for s in values(local.subscriptions) : s.topic])
}

# Dead letters are kept until somebody looks at them.
resource "google_pubsub_topic" "dead" {
  for_each = setunion(local.consumed, ["backfill-events"])
  name     = "${each.key}${local.names.dead_suffix}"
}

resource "google_pubsub_subscription" "hold" {
  for_each                   = google_pubsub_topic.dead
  name                       = "${each.value.name}.hold"
  topic                      = each.value.id
  message_retention_duration = "2678400s"
  retain_acked_messages      = false
  expiration_policy {
    ttl = "" # never
  }
}

resource "google_pubsub_subscription" "subscriptions" {
  for_each                   = local.subscriptions
  name                       = each.key
  topic                      = local.topic_ids[each.value.topic]
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = "" # never
  }
  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead[each.value.topic].id
    max_delivery_attempts = local.names.max_delivery_attempts
  }
  dynamic "push_config" {
    for_each = contains(local.pushed, each.value.consumer) ? [local.endpoints[each.value.consumer]] : []
    content {
      push_endpoint = "${push_config.value}/push/${each.key}"
      oidc_token {
        service_account_email = google_service_account.push.email
        audience              = push_config.value
      }
    }
  }
}

# Pub/Sub itself moves dead letters.
resource "google_pubsub_topic_iam_member" "dead_letters" {
  for_each = google_pubsub_topic.dead
  topic    = each.value.id
  role     = "roles/pubsub.publisher"
  member   = "serviceAccount:${local.pubsub}"
}

resource "google_pubsub_subscription_iam_member" "dead_letters" {
  for_each     = google_pubsub_subscription.subscriptions
  subscription = each.value.name
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:${local.pubsub}"
}

# Who may ask for backfills.
resource "google_pubsub_topic_iam_member" "people" {
  for_each = { for pair in setproduct(["backfill-requests", "backfill-controls"], var.publishers) : "${pair[0]} ${pair[1]}" => pair }
  topic    = google_pubsub_topic.topics[each.value[0]].id
  role     = "roles/pubsub.publisher"
  member   = each.value[1]
}

# The identity of push requests: it may call the two services that take them, and nothing else.
resource "google_service_account" "push" {
  account_id   = "sluice-push"
  display_name = "Sluice: identity of Pub/Sub's push requests"
}

resource "google_service_account_iam_member" "push" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = "serviceAccount:${local.pubsub}"
}
