----------------------------- MODULE Revocation -----------------------------
(* How a grantor B knows from which instant on nobody serves what it answered under a revoked grant.

   B answers with leases and records them; every instance (one cache of a gateway A) keeps an answer until its send
   time plus the lease. Revoking refuses first, then makes the revocation durable, then tells the armed watches;
   it is effective when each instance with a lease acknowledged or its lease ended. Messages get lost, late and out of
   order; B crashes once; A's clock may run slow by Drift over a lease, which B's longer lease (Margin) covers.

   Each constant that is TRUE in Revocation.cfg is a rule of the protocol. A mutant sets one to FALSE, and TLC must
   then find a violation. *)
EXTENDS Integers, FiniteSets

CONSTANTS
  Instances, Lease, Margin, Drift,      \* who, and times in units of one tick
  MaxTime, MaxMessages, MaxCalls, MaxCuts,   \* bounds of the search
  Fence,            \* an insert whose epoch has moved is dropped
  CheckAtDelivery,  \* a caller looks at the epoch again before it gets its answer
  FlightKeyEpoch,   \* a caller joins only a flight of the current epoch
  FromSend,         \* a lifetime counts from the send time, not from the receive time
  LeaseBeforeReply, \* B records the lease before the reply leaves
  CheckAtReply,     \* B looks again for a revocation before the reply leaves
  RefuseFirst,      \* B refuses before it tells the watches
  RestartRule,      \* a restarted B takes every instance as leased
  OwnInstanceId     \* every cache has an id of its own

VARIABLES
  now,
  refusing, durable, pushed, effective, crashed,   \* B: the revocation
  leases, acked, working,                          \* B: leases and calls being served
  armed, messages, cuts,                           \* the streams and the wire
  cache, epoch, flights, waiting, calls,           \* A: per instance
  served                                           \* an answer went out that must not

vars == <<now, refusing, durable, pushed, effective, crashed, leases, acked, working, armed, messages, cuts,
          cache, epoch, flights, waiting, calls, served>>
B    == <<refusing, durable, pushed, effective, crashed, leases, acked, working>>
A    == <<cache, epoch, flights, waiting, calls, served>>

Max(x, y) == IF x > y THEN x ELSE y
Room == Cardinality(messages) < MaxMessages
Symmetry == {f \in [Instances -> Instances] : \A i, j \in Instances : f[i] = f[j] => i = j}

Init ==
  /\ now = 0 /\ refusing = FALSE /\ durable = FALSE /\ pushed = FALSE /\ effective = FALSE /\ crashed = FALSE
  /\ leases = [i \in Instances |-> 0] /\ acked = [i \in Instances |-> FALSE] /\ working = {}
  /\ armed = [i \in Instances |-> TRUE] /\ messages = {} /\ cuts = 0
  /\ cache = [i \in Instances |-> 0] /\ epoch = [i \in Instances |-> 0]
  /\ flights = [i \in Instances |-> {}] /\ waiting = [i \in Instances |-> {}] /\ calls = 0 /\ served = FALSE

(* ---- A: a call, its followers, its answer ---- *)
Call(i) ==
  /\ Room /\ calls < MaxCalls /\ calls' = calls + 1
  /\ LET f == [id |-> calls, sent |-> now, epoch |-> epoch[i]] IN
     /\ flights' = [flights EXCEPT ![i] = @ \cup {f}]
     /\ waiting' = [waiting EXCEPT ![i] = @ \cup {[flight |-> calls, epoch |-> epoch[i], landed |-> FALSE]}]
     /\ messages' = messages \cup {[kind |-> "request", at |-> i, flight |-> f]}
  /\ UNCHANGED <<now, cuts, armed, cache, epoch, served>> /\ UNCHANGED B

Follow(i) ==                            \* an identical call while one is under way
  \E f \in flights[i] :
    /\ FlightKeyEpoch => f.epoch = epoch[i]
    /\ waiting' = [waiting EXCEPT ![i] = @ \cup {[flight |-> f.id, epoch |-> epoch[i], landed |-> FALSE]}]
    /\ waiting' # waiting
    /\ UNCHANGED <<now, cuts, armed, messages, cache, epoch, flights, calls, served>> /\ UNCHANGED B

Receive(m) ==                           \* the flight lands: fill, and wake those who wait
  /\ m.kind = "reply"
  /\ LET i == m.at
         f == m.flight
         end == (IF FromSend THEN f.sent ELSE now) + Lease + Drift    \* in true time, by the slowest clock
     IN
     /\ cache' = IF ~Fence \/ f.epoch = epoch[i] THEN [cache EXCEPT ![i] = Max(@, end)] ELSE cache
     /\ flights' = [flights EXCEPT ![i] = @ \ {f}]
     /\ waiting' = [waiting EXCEPT ![i] = {IF w.flight = f.id THEN [w EXCEPT !.landed = TRUE] ELSE w : w \in @}]
  /\ messages' = messages \ {m}
  /\ UNCHANGED <<now, cuts, armed, epoch, calls, served>> /\ UNCHANGED B

Deliver(i) ==
  \E w \in waiting[i] :
    /\ w.landed
    /\ waiting' = [waiting EXCEPT ![i] = @ \ {w}]
    /\ served' = (served \/ (effective /\ acked[i] /\ (~CheckAtDelivery \/ w.epoch = epoch[i])))
    /\ UNCHANGED <<now, cuts, armed, messages, cache, epoch, flights, calls>> /\ UNCHANGED B

(* ---- B: serving ---- *)
Admit(m) ==
  /\ m.kind = "request" /\ ~refusing
  /\ working' = working \cup {m} /\ messages' = messages \ {m}
  /\ UNCHANGED <<now, cuts, refusing, durable, pushed, effective, crashed, leases, acked, armed>> /\ UNCHANGED A

Answer(m) ==
  /\ m \in working /\ (CheckAtReply => ~refusing)
  /\ working' = working \ {m}
  /\ messages' = messages \cup {[m EXCEPT !.kind = "reply"]}
  /\ leases' = IF LeaseBeforeReply THEN [leases EXCEPT ![m.at] = Max(@, now + Lease + Margin)] ELSE leases
  /\ UNCHANGED <<now, cuts, refusing, durable, pushed, effective, crashed, acked, armed>> /\ UNCHANGED A

(* ---- B: revoking ---- *)
Refuse ==
  /\ ~refusing /\ refusing' = TRUE
  /\ UNCHANGED <<now, cuts, durable, pushed, effective, crashed, leases, acked, working, armed, messages>> /\ UNCHANGED A

Store ==
  /\ refusing /\ ~durable /\ durable' = TRUE
  /\ UNCHANGED <<now, cuts, refusing, pushed, effective, crashed, leases, acked, working, armed, messages>> /\ UNCHANGED A

Push ==
  /\ ~pushed /\ (RefuseFirst => durable) /\ pushed' = TRUE
  /\ messages' = messages \cup {[kind |-> "revoked", at |-> i] : i \in {j \in Instances : armed[j]}}
  /\ UNCHANGED <<now, cuts, refusing, durable, effective, crashed, leases, acked, working, armed>> /\ UNCHANGED A

Effective ==
  /\ durable /\ ~effective
  /\ \A i \in Instances : acked[i] \/ leases[i] <= now
  /\ effective' = TRUE
  /\ UNCHANGED <<now, cuts, refusing, durable, pushed, crashed, leases, acked, working, armed, messages>> /\ UNCHANGED A

Crash ==                                \* memory is gone; what was durable is read again
  /\ ~crashed /\ crashed' = TRUE
  /\ refusing' = durable /\ pushed' = FALSE /\ working' = {}
  /\ acked' = IF effective THEN acked ELSE [i \in Instances |-> FALSE]
  /\ leases' = [i \in Instances |-> IF RestartRule THEN now + Lease + Margin ELSE 0]
  /\ armed' = [i \in Instances |-> FALSE]
  /\ messages' = {m \in messages : m.kind \in {"request", "reply"}}
  /\ UNCHANGED <<now, cuts, durable, effective>> /\ UNCHANGED A

(* ---- the watch ---- *)
Flush(m) ==                             \* A hears: epoch first, then the acknowledgement on the same stream
  /\ m.kind = "revoked"
  /\ epoch' = [epoch EXCEPT ![m.at] = @ + 1] /\ cache' = [cache EXCEPT ![m.at] = 0]
  /\ messages' = (messages \ {m}) \cup {[kind |-> "ack", at |-> m.at]}
  /\ UNCHANGED <<now, cuts, armed, flights, waiting, calls, served>> /\ UNCHANGED B

Ack(m) ==
  /\ m.kind = "ack" /\ messages' = messages \ {m}
  /\ acked' = [i \in Instances |-> acked[i] \/ i = m.at \/ ~OwnInstanceId]
  /\ UNCHANGED <<now, cuts, refusing, durable, pushed, effective, crashed, leases, working, armed>> /\ UNCHANGED A

Disconnect(i) ==
  /\ armed[i] /\ cuts < MaxCuts /\ cuts' = cuts + 1 /\ armed' = [armed EXCEPT ![i] = FALSE]
  /\ messages' = {m \in messages : m.at # i \/ m.kind \in {"request", "reply"}}
  /\ UNCHANGED now /\ UNCHANGED A /\ UNCHANGED B

Rearm(i) ==                             \* a new stream: flush, and hear of a revocation that happened meanwhile
  /\ ~armed[i] /\ Room /\ armed' = [armed EXCEPT ![i] = TRUE]
  /\ epoch' = [epoch EXCEPT ![i] = @ + 1] /\ cache' = [cache EXCEPT ![i] = 0]
  /\ messages' = IF pushed THEN messages \cup {[kind |-> "revoked", at |-> i]} ELSE messages
  /\ UNCHANGED <<now, cuts, flights, waiting, calls, served>> /\ UNCHANGED B

Lose(m) ==
  /\ messages' = messages \ {m}
  /\ UNCHANGED <<now, cuts, armed>> /\ UNCHANGED A /\ UNCHANGED B

Tick == now < MaxTime /\ now' = now + 1 /\ UNCHANGED <<armed, messages, cuts>> /\ UNCHANGED A /\ UNCHANGED B

Next ==
  \/ \E i \in Instances : Call(i) \/ Follow(i) \/ Deliver(i) \/ Disconnect(i) \/ Rearm(i)
  \/ \E m \in messages : Admit(m) \/ Receive(m) \/ Flush(m) \/ Ack(m) \/ Lose(m)
  \/ \E m \in working : Answer(m)
  \/ Refuse \/ Store \/ Push \/ Effective \/ Crash \/ Tick

Spec == Init /\ [][Next]_vars

NoStaleHit == effective => \A i \in Instances : cache[i] <= now
NoLateAnswer == ~served
=============================================================================
