// Work on a session off the main thread, one call at a time in the order they were made.
#pragma once
#include <deque>
#include <functional>

#include "convert.h"

namespace lorafuse {

class Job;

// The session and the calls that wait for it, each of which holds it. Only the main thread touches the queue; one job runs at a time.
struct Shared {
  explicit Shared(SessionOptions options) : session(std::move(options)) {}
  Session session;
  std::deque<Job*> waiting;
  bool running = false, disposed = false;
  // Starts the next call or, once the session is disposed of, rejects them all.
  void next();
  // Forgets the calls that wait.
  void drop();
};

class Job : public Napi::AsyncWorker {
 public:
  using Result = std::function<Napi::Value(Napi::Env)>;  // makes the value of it, on the main thread
  Job(Napi::Env env, std::shared_ptr<Shared> shared, std::function<Result(Session&)> work)
      : AsyncWorker(env), shared_(std::move(shared)), work_(std::move(work)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }
  void fail(const Error& error) { deferred_.Reject(js_error(Env(), error).Value()); }

 protected:
  void Execute() override {
    try {
      result_ = work_(shared_->session);
    } catch (...) { failure_ = failure(); }
  }

  void OnWorkComplete(Napi::Env env, napi_status) override {
    const std::unique_ptr<Job> own(this);
    const auto shared = shared_;
    shared->running = false;
    try {
      const Napi::HandleScope scope(env);
      settle(env);
      shared->next();
    } catch (...) {
      // The thread's environment is ending (worker.terminate()): nobody is left to be told, and what waits would keep the session.
      shared->drop();
    }
  }

 private:
  // With its result, or with what kept it from being a value.
  void settle(Napi::Env env) {
    if (result_) {
      try {
        return deferred_.Resolve(result_(env));
      } catch (const Napi::Error& error) { return deferred_.Reject(error.Value()); } catch (...) {
        failure_ = failure();
      }
    }
    fail(failure_.value_or(Error("OUT_OF_MEMORY", "The system has no more memory")));  // not even for a failure
  }

  const std::shared_ptr<Shared> shared_;
  const std::function<Result(Session&)> work_;
  Result result_;
  const Napi::Promise::Deferred deferred_;
  std::optional<Error> failure_;
};

inline void Shared::next() {
  while (!waiting.empty() && !running) {
    std::unique_ptr<Job> job(waiting.front());
    waiting.pop_front();
    if (disposed) {
      job->fail({"DISPOSED", "This session was disposed"});
      continue;
    }
    job->Queue();
    running = true;
    job.release();  // it deletes itself once it is done
  }
}

inline void Shared::drop() {
  for (const Job* job : std::exchange(waiting, {})) delete job;
}

}  // namespace lorafuse
