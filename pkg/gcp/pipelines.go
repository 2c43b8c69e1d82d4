package gcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/api/option"
	"google.golang.org/api/storage/v1"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/pipeline"
)

// maxPipelines bounds what a bucket may hold under the prefix, in bytes.
const maxPipelines = 64 << 20

// Pipelines loads every pipeline of a directory or of a gs://bucket/prefix. Files that pipelines name, such as
// calendars, are taken from the same place.
func Pipelines(ctx context.Context, location string, options ...option.ClientOption) (map[string]*backfill.Pipeline, error) {
	rest, cloud := strings.CutPrefix(location, "gs://")
	if !cloud {
		return pipeline.LoadAll(location, nil)
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	if bucket == "" {
		return nil, fault.New(fault.Invalid, "%s names no bucket: use gs://bucket/prefix", location)
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	dir, err := os.MkdirTemp("", "sluice-pipelines")
	if err != nil {
		return nil, fmt.Errorf("making room for pipelines: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	n, err := download(ctx, bucket, prefix, dir, options...)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "reading %s: %w", location, err)
	}
	if n == 0 {
		return nil, fault.New(fault.Invalid, "there is no pipeline in %s: put NAME.yaml or NAME/pipeline.yaml there", location)
	}
	out, err := pipeline.LoadAll(dir, nil)
	if err != nil {
		return nil, relocate(err, dir, strings.TrimSuffix("gs://"+bucket+"/"+prefix, "/"))
	}
	return out, nil
}

// relocate has faults name the objects, not the copies.
func relocate(err error, from, to string) error {
	var faults fault.List
	for _, f := range fault.Faults(err) {
		faults = append(faults, strings.ReplaceAll(f, from, to))
	}
	return faults.Err()
}

// download copies the objects under a prefix and counts them.
func download(ctx context.Context, bucket, prefix, dir string, options ...option.ClientOption) (int, error) {
	options = append([]option.ClientOption{option.WithScopes(storage.DevstorageReadOnlyScope)}, options...)
	client, err := storage.NewService(ctx, options...)
	if err != nil {
		return 0, err
	}
	n, left := 0, int64(maxPipelines)
	err = client.Objects.List(bucket).Prefix(prefix).Pages(ctx, func(page *storage.Objects) error {
		for _, o := range page.Items {
			name := strings.TrimPrefix(o.Name, prefix)
			if name == "" || strings.HasSuffix(name, "/") {
				continue
			}
			if !filepath.IsLocal(name) {
				return fmt.Errorf("object %q leads out of the folder", o.Name)
			}
			if left -= int64(o.Size); left < 0 {
				return fmt.Errorf("there are more than %d MB: give pipelines a prefix of their own", maxPipelines>>20)
			}
			if err := fetch(ctx, client, o, filepath.Join(dir, name)); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

func fetch(ctx context.Context, client *storage.Service, o *storage.Object, file string) error {
	resp, err := client.Objects.Get(o.Bucket, o.Name).Generation(o.Generation).Context(ctx).Download()
	if err != nil {
		return fmt.Errorf("object %q: %w", o.Name, err)
	}
	defer resp.Body.Close()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("object %q: %w", o.Name, err)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("object %q: %w", o.Name, err)
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
