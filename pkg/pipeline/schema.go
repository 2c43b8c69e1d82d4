package pipeline

import (
	"encoding/json"
	"fmt"

	"github.com/invopop/jsonschema"
)

// reflectSchema describes File, with everything unknown refused.
func reflectSchema() *jsonschema.Schema {
	s := (&jsonschema.Reflector{RequiredFromJSONSchemaTags: false, Anonymous: true}).Reflect(&File{})
	s.Title = "Sluice pipeline"
	return s
}

// Schema is the JSON Schema for editors: what File describes, and the short forms.
func Schema() ([]byte, error) {
	s := reflectSchema()
	short := func(def, key string, other *jsonschema.Schema) {
		full := *s.Definitions[def]
		s.Definitions[def+"Full"] = &full
		s.Definitions[def] = &jsonschema.Schema{
			Description: key, OneOf: []*jsonschema.Schema{other, {Ref: "#/$defs/" + def + "Full"}},
		}
	}
	short("ProcessorBlock", "A name, or a processor in full", &jsonschema.Schema{Type: "string"})
	short("TriggerBlock", "none, or an HTTP call", &jsonschema.Schema{Const: "none"})
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the JSON Schema of pipeline files: %w", err)
	}
	return append(b, '\n'), nil
}
