resource "google_firestore_database" "sluice" {
  name                              = "sluice"
  location_id                       = var.region
  type                              = "FIRESTORE_NATIVE"
  concurrency_mode                  = "OPTIMISTIC"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy                   = "DELETE"
  depends_on                        = [google_project_service.apis]
}

# Documents of ended backfills go by themselves.
resource "google_firestore_field" "ttl" {
  for_each   = toset(local.names.firestore.ttl_collections)
  database   = google_firestore_database.sluice.name
  collection = each.key
  field      = local.names.firestore.ttl_field
  ttl_config {}
  index_config {} # nobody asks for it
}

# Fields that nobody asks for have no indexes: writes cost less, and a date with many attempts stays within the limit.
resource "google_firestore_field" "unindexed" {
  for_each   = merge([for collection, fields in local.names.firestore.unindexed : { for f in fields : "${collection}.${f}" => { collection = collection, field = f } }]...)
  database   = google_firestore_database.sluice.name
  collection = each.value.collection
  field      = each.value.field
  index_config {}
}

resource "google_firestore_backup_schedule" "daily" {
  database  = google_firestore_database.sluice.name
  retention = "604800s"
  daily_recurrence {}
}

locals {
  # Grants on documents reach one database and no other.
  only_sluice = {
    title      = "only-sluice"
    expression = "resource.name == \"projects/${var.project}/databases/${google_firestore_database.sluice.name}\""
  }
}
