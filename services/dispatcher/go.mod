module sluice.dev/services/dispatcher

go 1.26.0
