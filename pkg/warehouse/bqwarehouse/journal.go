package bqwarehouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// journalFields are the fields of the journal's message, which are the columns of its table.
func journalFields() []protoreflect.FieldDescriptor {
	all := new(pb.BackfillEvent).ProtoReflect().Descriptor().Fields()
	out := make([]protoreflect.FieldDescriptor, all.Len())
	for i := range out {
		out[i] = all.Get(i)
	}
	return out
}

// JournalSchema is the schema of the journal's table, made from the message: BigQuery's subscription writes each
// field to the column of its name.
func JournalSchema() (bigquery.Schema, error) {
	var s bigquery.Schema
	for _, f := range journalFields() {
		types := map[protoreflect.Kind]bigquery.FieldType{
			protoreflect.StringKind: bigquery.StringFieldType, protoreflect.Int32Kind: bigquery.IntegerFieldType,
			protoreflect.Int64Kind: bigquery.IntegerFieldType, protoreflect.MessageKind: bigquery.TimestampFieldType,
			protoreflect.DoubleKind: "FLOAT64", // FLOAT by its GoogleSQL name, which emulators understand too
		}
		typ, ok := types[f.Kind()]
		if !ok || (f.Message() != nil && f.Message().FullName() != "google.protobuf.Timestamp") {
			return nil, fault.New(fault.Unsupported, "the journal's schema: field %s is of kind %s, for which there is no column", f.Name(), f.Kind())
		}
		name := string(f.Name())
		s = append(s, &bigquery.FieldSchema{Name: name, Type: typ, Repeated: f.IsList(), Required: name == "id" || name == "at"})
	}
	return s, nil
}

// journalColumns lists the columns; some are keywords.
func journalColumns() string {
	fields := journalFields()
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = quote(string(f.Name()))
	}
	return strings.Join(names, ", ")
}

// stamp is a time of the journal, in the microseconds that BigQuery keeps.
func stamp(t *timestamppb.Timestamp) time.Time { return t.AsTime().Truncate(time.Microsecond) }

// journalValue is a field of an event as a parameter.
func journalValue(e *pb.BackfillEvent, f protoreflect.FieldDescriptor) any {
	v := e.ProtoReflect().Get(f)
	switch {
	case f.IsList():
		list := make([]string, v.List().Len())
		for i := range list {
			list[i] = v.List().Get(i).String()
		}
		return list
	case f.Kind() == protoreflect.MessageKind:
		return stamp(e.GetAt())
	case f.Kind() == protoreflect.StringKind:
		return v.String()
	case f.Kind() == protoreflect.DoubleKind:
		return v.Float()
	default:
		return v.Int()
	}
}

// Append implements warehouse.Warehouse. In the cloud a BigQuery subscription writes the journal; this is for
// placements without one.
func (w *Warehouse) Append(ctx context.Context, events ...*pb.BackfillEvent) error {
	fields := journalFields()
	marks := make([]string, len(fields))
	for i, f := range fields {
		marks[i] = "@" + string(f.Name())
	}
	sql := "INSERT INTO " + quote(w.opts.Journal) + " (" + journalColumns() + ") SELECT " + strings.Join(marks, ", ") +
		" FROM (SELECT 1) WHERE NOT EXISTS (SELECT 1 FROM " + quote(w.opts.Journal) + " WHERE `id` = @id AND `at` = @at)"
	for _, e := range events {
		params := make([]bigquery.QueryParameter, len(fields))
		for i, f := range fields {
			params[i] = param(string(f.Name()), journalValue(e, f))
		}
		q, err := w.query(warehouse.ForBackfill(ctx, e.GetBackfillId()), "journal", sql, params...)
		if err != nil {
			return err
		}
		if err := w.rows(ctx, q, func([]bigquery.Value) error { return nil }); err != nil {
			return wrap(err, "writing the journal")
		}
	}
	return ctx.Err()
}

// Events implements warehouse.Warehouse. A line that was delivered twice is told once.
func (w *Warehouse) Events(ctx context.Context, id string, f func(*pb.BackfillEvent) error) error {
	q, err := w.query(warehouse.ForBackfill(ctx, id), "journal",
		"SELECT "+journalColumns()+" FROM "+quote(w.opts.Journal)+" WHERE `backfill_id` = @id ORDER BY `at`, `id`", param("id", id))
	if err != nil {
		return err
	}
	fields, last := journalFields(), ""
	return wrap(w.rows(ctx, q, func(row []bigquery.Value) error {
		e := new(pb.BackfillEvent)
		for i, field := range fields {
			if err := setField(e, field, row[i]); err != nil {
				return err
			}
		}
		if e.GetId() == last {
			return nil
		}
		last = e.GetId()
		return f(e)
	}), "reading the journal of %s", id)
}

// setField sets a field of an event from a column; NULL leaves it empty.
func setField(e *pb.BackfillEvent, f protoreflect.FieldDescriptor, v bigquery.Value) error {
	m := e.ProtoReflect()
	switch v := v.(type) {
	case nil:
	case string:
		m.Set(f, protoreflect.ValueOfString(v))
	case float64:
		m.Set(f, protoreflect.ValueOfFloat64(v))
	case time.Time:
		e.At = timestamppb.New(v)
	case []bigquery.Value:
		list := m.Mutable(f).List()
		for _, x := range v {
			list.Append(protoreflect.ValueOfString(text(x)))
		}
	case int64:
		if f.Kind() == protoreflect.Int32Kind {
			m.Set(f, protoreflect.ValueOfInt32(int32(v)))
		} else {
			m.Set(f, protoreflect.ValueOfInt64(v))
		}
	default:
		return fmt.Errorf("column %s holds a %T", f.Name(), v)
	}
	return nil
}
