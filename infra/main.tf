# What several files use. Names that the program knows come from names.json, which make generate writes.
locals {
  names     = jsondecode(file("${path.module}/names.json"))
  location  = var.bigquery_location != "" ? var.bigquery_location : var.region
  pubsub    = "service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
  host      = "${data.google_project.this.number}.${var.region}.run.app"
  pushed    = toset(["completion-tracker", "phase-gate"])
  endpoints = { for s in local.pushed : s => "https://${s}-${local.host}" }
}

data "google_project" "this" {}

resource "google_project_service" "apis" {
  for_each = toset([
    "artifactregistry.googleapis.com", "bigquery.googleapis.com", "billingbudgets.googleapis.com", "cloudscheduler.googleapis.com", "firestore.googleapis.com",
    "iam.googleapis.com", "iamcredentials.googleapis.com", "monitoring.googleapis.com", "pubsub.googleapis.com", "run.googleapis.com", "storage.googleapis.com",
    "telemetry.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

# Images, and the pipelines that services read.
resource "google_artifact_registry_repository" "images" {
  repository_id = "sluice"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of Sluice's services"

  cleanup_policies {
    id     = "keep-the-last-ten"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }
  cleanup_policies {
    id     = "remove-old-ones"
    action = "DELETE"
    condition {
      older_than = "7776000s"
    }
  }
  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket" "pipelines" {
  name                        = "${var.project}-sluice-pipelines"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  versioning {
    enabled = true
  }
}
