module sluice.dev/services/console

go 1.26.0
