variable "project" {
  description = "The Google Cloud project."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project id has 6 to 30 of a-z, 0-9 and -, begins with a letter and does not end with -."
  }
}

variable "region" {
  description = "Where services and the Firestore database are, e.g. us-west2."
  type        = string
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Write the region like us-west2."
  }
}

variable "bigquery_location" {
  description = "Where the journal's dataset is; the same as the pipelines' datasets, so that queries can join them. Empty: the region."
  type        = string
  default     = ""
}

variable "pipeline_datasets" {
  description = "BigQuery datasets that pipelines read: calendar, history and the tables of data checks."
  type        = set(string)
  default     = []
}

variable "rollback_datasets" {
  description = "Those of them that rollback may delete from and take snapshots in, and that history is written back to."
  type        = set(string)
  default     = []
  validation {
    condition     = length(setsubtract(var.rollback_datasets, var.pipeline_datasets)) == 0
    error_message = "Name the datasets of rollback_datasets in pipeline_datasets too."
  }
}

variable "adapter_topics" {
  description = "Topics of the platform that pipelines read completions from (completions.topic in pipeline files)."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for t in var.adapter_topics : can(regex("^[a-zA-Z][a-zA-Z0-9._~+%-]{2,254}$", t))])
    error_message = "Topic names have 3 to 255 characters and begin with a letter."
  }
}

variable "create_adapter_topics" {
  description = "Make the adapter topics, in a project without the platform; otherwise they must be there."
  type        = bool
  default     = false
}

variable "processor_services" {
  description = "Cloud Run services that the dispatcher calls, in var.region: it may invoke these and no others."
  type        = set(string)
  default     = []
}

variable "publishers" {
  description = "Who may ask for backfills and control them by publishing: members such as group:data@example.com."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for m in var.publishers : can(regex("^(user|group|serviceAccount|domain):.+", m))])
    error_message = "Write members as user:, group:, serviceAccount: or domain: and the address."
  }
}

variable "console_users" {
  description = "Who may use the console and the CLI against it."
  type        = set(string)
  default     = []
}

variable "validate_messages" {
  description = "Have Pub/Sub refuse malformed requests and controls when they are published. Structured CloudEvents are refused then, too: use binary mode or bare JSON."
  type        = bool
  default     = true
}

variable "message_retention" {
  description = "How long topics keep messages, so that subscriptions can be set back; 600s to 2678400s."
  type        = string
  default     = "604800s"
  validation {
    condition     = can(regex("^[0-9]+s$", var.message_retention)) && tonumber(trimsuffix(var.message_retention, "s")) >= 600 && tonumber(trimsuffix(var.message_retention, "s")) <= 2678400
    error_message = "Between 600s and 2678400s."
  }
}

variable "requests" {
  description = "Backfills that are asked for by the clock: a name to a cron expression and the request."
  type = map(object({
    schedule  = string
    time_zone = optional(string, "Etc/UTC")
    request   = string
  }))
  default = {}
  validation {
    condition     = alltrue([for r in values(var.requests) : can(jsondecode(r.request).pipeline) && can(jsondecode(r.request).dates)])
    error_message = "A request is JSON with pipeline and dates."
  }
}

variable "alert_emails" {
  description = "Who is told of alerts."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for e in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+$", e))])
    error_message = "Write addresses like someone@example.com."
  }
}

variable "billing_account" {
  description = "The billing account for the project's budget; empty makes no budget."
  type        = string
  default     = ""
}

variable "monthly_budget_usd" {
  description = "The project's budget for a month in USD."
  type        = number
  default     = 500
  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "It must be above zero."
  }
}

variable "deletion_protection" {
  description = "Keep Terraform from removing the database and the journal."
  type        = bool
  default     = true
}

variable "processor_accounts" {
  description = "Service accounts of processors that report to processor-completions by themselves."
  type        = set(string)
  default     = []
}
