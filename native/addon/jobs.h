// Work on a session off the main thread, one call at a time in the order they were made.
#pragma once
#include <deque>

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
  Job(Napi::Env env, std::shared_ptr<Shared> shared)
      : AsyncWorker(env), shared(std::move(shared)), deferred_(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void OnOK() override {
    finish([&] {
      try {
        deferred_.Resolve(result(Env()));
      } catch (const Napi::Error& error) {  // its result did not become a value
        deferred_.Reject(error.Value());
      }
    });
  }
  void OnError(const Napi::Error&) override {
    finish([&] { fail(failure_); });
  }
  void fail(const Failure& failure) { deferred_.Reject(js_error(Env(), failure).Value()); }

  const std::shared_ptr<Shared> shared;

 protected:
  virtual void work() = 0;
  virtual Napi::Value result(Napi::Env env) = 0;

  void Execute() override {
    try {
      work();
    } catch (...) {
      failure_ = failure();
      SetError(failure_.message);
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

  Napi::Promise::Deferred deferred_;
  Failure failure_{"INTERNAL", ""};
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

template <class Work> class JobOf : public Job {
 public:
  using Result = std::invoke_result_t<Work, Session&>;
  JobOf(Napi::Env env, std::shared_ptr<Shared> shared, Work work) : Job(env, std::move(shared)), work_(std::move(work)) {}

 protected:
  void work() override { result_ = work_(shared->session); }
  Napi::Value result(Napi::Env env) override { return to_js(env, result_); }

 private:
  Work work_;
  Result result_{};
};

}  // namespace lorafuse
