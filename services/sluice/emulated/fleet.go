package emulated

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Services are the programs that a fleet is made of.
var Services = []string{"dispatcher", "completion-tracker", "phase-gate", "console"}

// Fleet starts services as processes and ends them.
type Fleet struct {
	Bin  string // the folder of the programs
	Logs string // the folder of their logs, one for each instance
	Env  []string

	mu      sync.Mutex
	running map[string]*process // by instance
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts an instance of a service. It is killed when the calling thread's process ends, whatever ends it.
func (f *Fleet) Start(service, instance string, port int, env ...string) error {
	log, err := os.OpenFile(f.Log(instance), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", instance, err)
	}
	defer log.Close()
	p := &process{exec.Command(filepath.Join(f.Bin, service)), make(chan struct{})} //nolint:noctx // Stop ends it
	p.cmd.Env = append(append(append(os.Environ(), f.Env...), env...), "SLUICE_HOST=127.0.0.1", fmt.Sprint("PORT=", port))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", instance, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running == nil {
		f.running = map[string]*process{}
	}
	f.running[instance] = p
	return nil
}

// Log is the file that an instance logs to.
func (f *Fleet) Log(instance string) string { return filepath.Join(f.Logs, instance+".log") }

// Kill is kill -9.
func (f *Fleet) Kill(instance string) {
	if p := f.take(instance); p != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (f *Fleet) take(instance string) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.running[instance]
	delete(f.running, instance)
	return p
}

// Ended names an instance that ended by itself, empty when all run.
func (f *Fleet) Ended() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for instance, p := range f.running {
		select {
		case <-p.done:
			return instance
		default:
		}
	}
	return ""
}

// Stop asks all to end, and kills those that do not within the grace.
func (f *Fleet) Stop(grace time.Duration) {
	f.mu.Lock()
	all := f.running
	f.running = nil
	f.mu.Unlock()
	for _, p := range all {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	late := time.After(grace)
	for _, p := range all {
		select {
		case <-p.done:
			continue
		case <-late:
		}
		for _, p := range all {
			_ = p.cmd.Process.Kill()
		}
		<-p.done
	}
}
