// Package sqlitedb opens SQLite files the way all embedded drivers need them, and groups concurrent writes
// into one transaction. What the tables mean is the drivers' business.
package sqlitedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver registers itself with database/sql

	"sluice.dev/pkg/fault"
)

// DB is one file: a pool of readers, and one writer that commits in groups.
type DB struct {
	*sql.DB
	write  *sql.DB
	conn   *sql.Conn            // the only one of write
	stmts  map[string]*sql.Stmt // of the writer's goroutine
	ops    chan *op
	linger time.Duration
	stop   chan struct{}
	done   sync.WaitGroup
	once   sync.Once
}

// Tx is a transaction of the writer.
type Tx struct{ db *DB }

// Exec runs a statement, which is prepared once for all transactions.
func (tx *Tx) Exec(query string, args ...any) (sql.Result, error) {
	ctx := context.Background()
	stmt := tx.db.stmts[query]
	if stmt == nil {
		if len(tx.db.stmts) >= maxPrepared {
			return tx.db.conn.ExecContext(ctx, query, args...)
		}
		var err error
		if stmt, err = tx.db.conn.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
		tx.db.stmts[query] = stmt
	}
	return stmt.ExecContext(ctx, args...)
}

// QueryContext reads inside the transaction.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.db.conn.QueryContext(ctx, query, args...)
}

// QueryRowContext reads inside the transaction.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.db.conn.QueryRowContext(ctx, query, args...)
}

// maxPrepared bounds the statements that are kept.
const maxPrepared = 100

type op struct {
	do   func(*Tx) error
	then func(committed error)
}

// maxGroup bounds how many writes share a transaction, and so how long the first of them waits.
const maxGroup = 512

// Option changes how a file is opened.
type Option func(*DB)

// Linger has each write wait for others to share its transaction, for what nobody waits for.
func Linger(d time.Duration) Option { return func(db *DB) { db.linger = d } }

// Open opens or creates the file in WAL mode and runs the schema, which must be repeatable. A commit
// survives the end of the process at once, and a power cut up to the last checkpoint of the log
// (synchronous=NORMAL); the file is never torn.
func Open(ctx context.Context, path, schema string, options ...Option) (*DB, error) {
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10000)&_pragma=temp_store(MEMORY)"
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if _, err := write.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing %s: %w", path, err), write.Close())
	}
	conn, err := write.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), write.Close())
	}
	read, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(4)
	db := &DB{DB: read, write: write, conn: conn, stmts: map[string]*sql.Stmt{}, ops: make(chan *op, maxGroup), stop: make(chan struct{})}
	for _, o := range options {
		o(db)
	}
	db.done.Add(1)
	go db.loop()
	return db, nil
}

// Write runs do inside a transaction that other writes may share, and returns once it is committed. When
// do fails, its own changes are rolled back and nobody else's. do runs on the writer's only goroutine:
// calls never overlap.
func (db *DB) Write(ctx context.Context, do func(*Tx) error) error {
	return db.WriteThen(ctx, do, nil)
}

// WriteThen is Write with a function that runs on the writer's goroutine once the outcome is certain,
// before any later write runs.
func (db *DB) WriteThen(ctx context.Context, do func(*Tx) error, then func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	res := make(chan error, 1)
	o := &op{do: do, then: func(err error) {
		if then != nil {
			then(err)
		}
		res <- err
	}}
	select {
	case db.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.stop:
		return fault.New(fault.Unavailable, "the database is closed")
	}
	// Once queued, the write will happen: waiting for the outcome keeps callers from guessing.
	select {
	case err := <-res:
		return err
	case <-db.stop:
		db.done.Wait()
		select {
		case err := <-res:
			return err
		default:
			return fault.New(fault.Unavailable, "the database was closed before the write was committed")
		}
	}
}

func (db *DB) loop() {
	defer db.done.Done()
	for {
		select {
		case o := <-db.ops:
			if db.linger > 0 {
				db.wait()
			}
			db.commit(db.group(o))
		case <-db.stop:
			for {
				select {
				case o := <-db.ops:
					db.commit(db.group(o))
				default:
					return
				}
			}
		}
	}
}

// wait gives others time to join a group.
func (db *DB) wait() {
	t := time.NewTimer(db.linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-db.stop:
	}
}

func (db *DB) group(first *op) []*op {
	group := []*op{first}
	for len(group) < maxGroup {
		select {
		case o := <-db.ops:
			group = append(group, o)
		default:
			return group
		}
	}
	return group
}

// commit runs a group in one transaction. Should one of several writes fail, each runs alone, so that a
// bad one fails by itself.
func (db *DB) commit(group []*op) {
	err := db.transact(group)
	if err != nil && len(group) > 1 {
		for _, o := range group {
			o.then(db.transact([]*op{o}))
		}
		return
	}
	for _, o := range group {
		o.then(err)
	}
}

func (db *DB) transact(group []*op) error {
	tx := &Tx{db}
	if _, err := tx.Exec("BEGIN IMMEDIATE"); err != nil {
		return fault.New(fault.Unavailable, "beginning a transaction: %w", err)
	}
	for _, o := range group {
		if err := o.do(tx); err != nil {
			_, undone := tx.Exec("ROLLBACK")
			return errors.Join(err, undone)
		}
	}
	if _, err := tx.Exec("COMMIT"); err != nil {
		_, undone := tx.Exec("ROLLBACK")
		return fault.New(fault.Unavailable, "committing: %w", errors.Join(err, undone))
	}
	return nil
}

// Close commits what was queued and closes the file. It may be called twice.
func (db *DB) Close() error {
	var err error
	db.once.Do(func() {
		close(db.stop)
		db.done.Wait()
		for _, stmt := range db.stmts {
			err = errors.Join(err, stmt.Close())
		}
		err = errors.Join(err, db.DB.Close(), db.conn.Close(), db.write.Close())
	})
	return err
}
