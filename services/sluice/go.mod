module sluice.dev/services/sluice

go 1.26.0
