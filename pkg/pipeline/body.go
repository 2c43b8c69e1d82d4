package pipeline

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"sluice.dev/pkg/backfill"
)

// Call is what a body template may name. Strings are escaped for use inside JSON strings.
type Call struct {
	Backfill   string
	Pipeline   string
	Date       string
	Season     string
	Phase      string
	Processor  string
	Processors []string
	Attempt    int
	Reason     string
}

// Body fills in a trigger's template. The result is always JSON.
func Body(h *backfill.HTTPTrigger, c Call) ([]byte, error) {
	t, err := template.New("body").Option("missingkey=error").Funcs(template.FuncMap{"json": jsonText}).Parse(h.Body)
	if err != nil {
		return nil, fmt.Errorf("the body template is wrong: %w", err)
	}
	for _, s := range []*string{&c.Backfill, &c.Pipeline, &c.Date, &c.Season, &c.Phase, &c.Processor, &c.Reason} {
		q := jsonText(*s)
		*s = q[1 : len(q)-1]
	}
	var b strings.Builder
	if err := t.Execute(&b, c); err != nil {
		return nil, fmt.Errorf("the body template is wrong: %w (it may use Backfill, Pipeline, Date, Season, Phase, Processor, Processors, Attempt and Reason)", err)
	}
	if out := []byte(b.String()); len(out) == 0 || json.Valid(out) {
		return out, nil
	}
	return nil, fmt.Errorf("the body template does not make JSON: %s", b.String())
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return `""`
	}
	return string(b)
}
