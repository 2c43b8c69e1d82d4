package pipeline

import (
	"errors"
	"fmt"
	"path/filepath"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
)

// LoadAll loads every pipeline of a directory: its *.yaml files, and pipeline.yaml of each folder in it.
func LoadAll(dir string, lookup func(string) (string, bool)) (map[string]*backfill.Pipeline, error) {
	var files []string
	for _, pattern := range []string{"*.yaml", "*/pipeline.yaml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, fmt.Errorf("looking for pipelines in %s: %w", dir, err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fault.New(fault.Invalid, "there is no pipeline in %s: put NAME.yaml or NAME/pipeline.yaml there", dir)
	}
	out, from := map[string]*backfill.Pipeline{}, map[string]string{}
	var errs []error
	for _, file := range files {
		p, err := Load(file, lookup)
		switch {
		case err != nil:
			errs = append(errs, err)
		case out[p.Name] != nil:
			errs = append(errs, fault.New(fault.Invalid, "%s: pipeline %q is in %s already", file, p.Name, from[p.Name]))
		default:
			out[p.Name], from[p.Name] = p, file
		}
	}
	return out, errors.Join(errs...)
}
