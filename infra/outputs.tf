# What deploys need; make deploy reads them by their names.
output "images" {
  description = "Where images are pushed."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "pipelines" {
  description = "SLUICE_PIPELINES of the services."
  value       = "gs://${google_storage_bucket.pipelines.name}"
}

output "console" {
  description = "SLUICE_SERVER of the CLI."
  value       = "https://console-${local.host}"
}

output "service_accounts" {
  value = merge(local.services, { push = google_service_account.push.email, tick = google_service_account.tick.email })
}
