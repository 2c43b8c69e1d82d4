module sluice.dev/services/phase-gate

go 1.26.0
