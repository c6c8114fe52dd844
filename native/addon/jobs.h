// Work on a session off the main thread, one call at a time in the order they were made.
#pragma once
#include <deque>
#include <functional>

#include "convert.h"

namespace lorafuse {

class Job;

// The session and the calls that wait for it. Only the main thread touches the queue; one job runs at a time.
struct Shared {
  explicit Shared(SessionOptions options) : session(std::move(options)) {}
  Session session;
  std::deque<Job*> waiting;
  bool running = false, disposed = false;
  void next();
};

class Job : public Napi::AsyncWorker {
 public:
  using Result = std::function<Napi::Value(Napi::Env)>;  // makes the value of it, on the main thread
  Job(Napi::Env env, std::shared_ptr<Shared> shared, std::function<Result(Session&)> work)
      : AsyncWorker(env), shared(std::move(shared)), work_(std::move(work)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void OnOK() override {
    finish([&] {
      try {
        deferred_.Resolve(result_(Env()));
      } catch (const Napi::Error& error) {  // its result did not become a value
        deferred_.Reject(error.Value());
      }
    });
  }
  void OnError(const Napi::Error&) override {
    finish([&] { fail(failure_); });
  }
  void fail(const Error& error) { deferred_.Reject(js_error(Env(), error).Value()); }

  const std::shared_ptr<Shared> shared;

 protected:
  void Execute() override {
    try {
      result_ = work_(shared->session);
    } catch (...) {
      failure_ = failure();
      SetError(failure_.what());
    }
  }

 private:
  template <class F> void finish(F settle) {
    const auto keep = shared;  // this object is deleted after OnOK or OnError returns
    keep->running = false;
    try {
      settle();
      keep->next();
    } catch (const Napi::Error&) {
      // The thread's environment is ending (worker.terminate()): nobody is left to be told.
    }
  }

  std::function<Result(Session&)> work_;
  Result result_;
  Napi::Promise::Deferred deferred_;
  Error failure_{"INTERNAL", ""};
};

inline void Shared::next() {
  while (!waiting.empty() && !running) {
    Job* job = waiting.front();
    waiting.pop_front();
    if (disposed) {
      job->fail({"DISPOSED", "This session was disposed"});
      delete job;
    } else {
      running = true;
      job->Queue();
    }
  }
}

}  // namespace lorafuse
