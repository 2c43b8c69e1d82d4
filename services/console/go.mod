module sluice.dev/services/console

go 1.26.0

require (
	sluice.dev/pkg v0.0.0
	sluice.dev/proto v0.0.0
)

replace (
	sluice.dev/pkg => ../../pkg
	sluice.dev/proto => ../../proto
)
