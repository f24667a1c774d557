// Package exits is the one table of exit statuses between the worker, the supervisor and Python's tasks. Python has the same table
// (tests compare them). A number has one meaning, whoever returns it.
//
// The numbers of tasks are part of what an older or newer build understands: during an upgrade the supervisor of one build asks the
// artefact of another. Do not change them.
package exits

const (
	Done      = 0  // worker: logged out, or told to end; supervisor: told to end; task: done
	Crash     = 1  // worker: start it again; task: try again later
	Gone      = 3  // supervisor, task: there is nothing to run; final for the unit
	Moved     = 4  // task sync, attend: the node has to begin anew, as another one or with another build
	NeedsKey  = 10 // worker: never registered, or the key was refused, used or expired
	Forgotten = 11 // worker: the control plane does not know the node any more
	TUNGone   = 12 // worker: the interface was deleted
	PortBusy  = 13 // worker: another process has the UDP port; start it again, as after a crash
	AskAgain  = 20 // task rekey: the control plane is away and may have a key soon
)
