module sluice.dev/services/completion-tracker

go 1.26.0
