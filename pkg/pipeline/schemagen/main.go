// Command schemagen prints the JSON Schema of pipeline files.
package main

import (
	"fmt"
	"os"

	"sluice.dev/pkg/pipeline"
)

func main() {
	b, err := pipeline.Schema()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = os.Stdout.Write(b)
}
