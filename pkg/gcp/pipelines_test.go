package gcp_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/api/option"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/gcp"
)

const pipelineText = `name: %s
partition: {column: day, calendar: {file: dates.csv, date: day, season: year}}
phases:
  - id: load
    trigger: {http: {url: "http://127.0.0.1:1/load", reply: sync, body: '{"day":"{{.Date}}"}'}}
    processors: [{name: orders}]
`

// bucket serves objects as Cloud Storage's JSON API does, one a page.
func bucket(t *testing.T, objects map[string]string) []option.ClientOption {
	t.Helper()
	var names []string
	for n := range objects {
		names = append(names, n)
	}
	slices.Sort(names)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /storage/v1/b/bucket/o", func(w http.ResponseWriter, r *http.Request) {
		var found []string
		for _, n := range names {
			if strings.HasPrefix(n, r.URL.Query().Get("prefix")) {
				found = append(found, n)
			}
		}
		at, _ := strconv.Atoi(r.URL.Query().Get("pageToken"))
		if at >= len(found) {
			_, _ = fmt.Fprint(w, `{"kind":"storage#objects"}`)
			return
		}
		next := ""
		if at+1 < len(found) {
			next = fmt.Sprintf(`,"nextPageToken":"%d"`, at+1)
		}
		_, _ = fmt.Fprintf(w, `{"items":[{"bucket":"bucket","name":%q,"generation":"7","size":"%d"}]%s}`, found[at], len(objects[found[at]]), next)
	})
	mux.HandleFunc("GET /storage/v1/b/bucket/o/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, ok := objects[r.PathValue("name")]
		if !ok || r.URL.Query().Get("alt") != "media" || r.URL.Query().Get("generation") != "7" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = fmt.Fprint(w, text)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return []option.ClientOption{option.WithEndpoint(server.URL + "/storage/v1/"), option.WithoutAuthentication()}
}

func TestPipelinesFromABucket(t *testing.T) {
	t.Parallel()
	csv := "day,year\n2024-01-01,2024\n"
	options := bucket(t, map[string]string{
		"live/": "", "live/one.yaml": fmt.Sprintf(pipelineText, "one"), "live/dates.csv": csv,
		"live/two/pipeline.yaml": fmt.Sprintf(pipelineText, "two"), "live/two/dates.csv": csv,
		"broken/pipeline.yaml": "name: x\n", "evil/../../x.yaml": "name: y\n", "other.yaml": fmt.Sprintf(pipelineText, "three"),
	})
	got, err := gcp.Pipelines(t.Context(), "gs://bucket/live", options...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["one"] == nil || got["two"] == nil {
		t.Errorf("loaded %v", got)
	}
	for location, want := range map[string]string{
		"gs://bucket/none": "there is no pipeline in gs://bucket/none", "gs://": "names no bucket", "gs://bucket/broken": "gs://bucket/broken/pipeline.yaml:1",
		"gs://bucket/evil": "leads out of the folder", "gs://nobody/x": "reading gs://nobody/x",
	} {
		_, err := gcp.Pipelines(t.Context(), location, options...)
		if err == nil || !strings.Contains(strings.Join(fault.Faults(err), "\n"), want) {
			t.Errorf("%s: no %q in %v", location, want, err)
		}
	}
}
