// Arguments from JavaScript, results and errors to it. The types on the other side are in lib/native.ts.
#pragma once
#include <napi.h>

#include <cstring>
#include <span>

#include "../train/session.h"

namespace lorafuse {

// ---- from JavaScript: each throws ARGUMENT_INVALID, naming the argument ----

inline double number(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsNumber(), "ARGUMENT_INVALID", "Expected a number for ", name);
  return value.As<Napi::Number>().DoubleValue();
}
inline int64_t integer(const Napi::Value& value, const std::string& name) {
  const double x = number(value, name);
  CHECK(std::abs(x) <= 0x1p53 && x == std::floor(x), "ARGUMENT_INVALID", "Expected an integer for ", name, " but received ", x);
  return static_cast<int64_t>(x);
}
// 0 or more.
inline int64_t whole(const Napi::Value& value, const std::string& name) {
  const int64_t x = integer(value, name);
  CHECK(x >= 0, "ARGUMENT_INVALID", "Expected a whole number for ", name, " but received ", x);
  return x;
}
inline bool boolean(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsBoolean(), "ARGUMENT_INVALID", "Expected true or false for ", name);
  return value.As<Napi::Boolean>().Value();
}
inline std::string string(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsString(), "ARGUMENT_INVALID", "Expected a string for ", name);
  return value.As<Napi::String>().Utf8Value();
}
inline Napi::Object object(const Napi::Value& value, const std::string& name) {
  CHECK(value.IsObject(), "ARGUMENT_INVALID", "Expected an object for ", name);
  return value.As<Napi::Object>();
}

// Converts lists whose items `convert` converts. A getter among them may make the list longer or shorter: it is as long as it was.
template <class Convert> auto list(Convert convert) {
  constexpr uint32_t kMostItems = 1 << 20;
  return [=](const Napi::Value& value, const std::string& name) {
    CHECK(value.IsArray(), "ARGUMENT_INVALID", "Expected an array for ", name);
    const auto array = value.As<Napi::Array>();
    const uint32_t length = array.Length();
    CHECK(length <= kMostItems, "ARGUMENT_INVALID", "Expected at most ", kMostItems, " items for ", name, " but received ", length);
    std::vector<decltype(convert(value, name))> out;
    for (uint32_t i = 0; i < length; i++) out.push_back(convert(array.Get(i), text(name, "[", i, "]")));
    return out;
  };
}

// Converts an object's own properties, by name.
template <class Convert> auto record(Convert convert) {
  return [=](const Napi::Value& value, const std::string& name) {
    const auto from = object(value, name);
    const auto keys = from.GetPropertyNames();
    std::map<std::string, decltype(convert(value, name))> out;
    for (uint32_t i = 0; i < keys.Length(); i++) {
      const std::string key = string(keys.Get(i), name);
      out.emplace(key, convert(from.Get(key), name + "." + key));
    }
    return out;
  };
}

// The properties of an object that are known by name; `prefix` comes before that in errors.
struct Fields {
  Napi::Object object;
  std::string prefix;

  Fields(const Napi::Value& value, const std::string& name) : object(lorafuse::object(value, name)), prefix(name + ".") {}
  bool has(const char* key) const { return !object.Get(key).IsUndefined(); }
  template <class Convert> auto get(const char* key, Convert convert) const { return convert(object.Get(key), prefix + key); }
};

// The elements of a typed array, where JavaScript holds them: valid until it runs again.
template <class Element> std::span<Element> view(const Napi::Value& value, const std::string& name) {
  constexpr bool kFloats = std::is_same_v<Element, float>;
  const auto type = kFloats ? napi_float32_array : napi_int32_array;
  CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type, "ARGUMENT_INVALID", "Expected ",
        kFloats ? "a Float32Array" : "an Int32Array", " for ", name);
  auto array = value.As<Napi::TypedArrayOf<Element>>();
  return {array.Data(), array.ElementLength()};
}
template <class Element> std::vector<Element> elements(const Napi::Value& value, const std::string& name) {
  const std::span<Element> all = view<Element>(value, name);
  return {all.begin(), all.end()};
}

// A tensor of a file may have extents of 0, inputs may not.
template <int64_t kLeast> Shape shape(const Napi::Value& value, const std::string& name) {
  constexpr size_t kMostExtents = 8;
  auto extents = list(integer)(value, name);
  CHECK(extents.size() <= kMostExtents, "ARGUMENT_INVALID", "Expected at most ", kMostExtents, " extents for ", name, " but received ",
        extents.size());
  double product = 1;
  for (int64_t extent : extents) {
    CHECK(extent >= kLeast, "ARGUMENT_INVALID", "Expected extents of ", kLeast, " or more for ", name, " but received ", extent);
    product *= static_cast<double>(std::max<int64_t>(extent, 1));
  }
  CHECK(product <= 0x1p40, "ARGUMENT_INVALID", "Expected at most 2^40 elements for ", name, " but received ", product);
  return Shape(std::move(extents));
}

inline HostTensor tensor(const Napi::Value& value, const std::string& name) {
  const Fields from(value, name);
  HostTensor t{from.get("shape", shape<1>), {}};
  const Napi::Value data = from.object.Get("data");
  const bool ids = data.IsTypedArray() && data.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array;
  if (ids) t.data = elements<int32_t>(data, name + ".data");
  else t.data = elements<float>(data, name + ".data");
  const size_t received = std::visit([](const auto& d) { return d.size(); }, t.data);
  CHECK(static_cast<int64_t>(received) == t.shape.elements(), "ARGUMENT_INVALID", "Expected ", t.shape.elements(), " elements for ", name,
        " of shape ", t.shape, " but received ", received);
  return t;
}

inline double finite(const Napi::Value& value, const std::string& name) {
  const double x = number(value, name);
  CHECK(std::isfinite(x), "ARGUMENT_INVALID", "Expected a finite number for ", name, " but received ", x);
  return x;
}

inline Config config(const Napi::Value& value, const std::string& name) {
  const auto convert = [](const Napi::Value& v, const std::string& n) -> Config::Value {
    if (v.IsBoolean()) return boolean(v, n);
    if (v.IsNumber()) return finite(v, n);
    if (v.IsString()) return string(v, n);
    CHECK(v.IsArray(), "ARGUMENT_INVALID", "Expected a number, a string, true, false or a list for ", n);
    const auto array = v.As<Napi::Array>();
    if (array.Length() > 0 && array.Get(0u).IsString()) return list(string)(v, n);
    return list(finite)(v, n);
  };
  return Config(name, record(convert)(value, name));
}

// Converts one of the words to the value beside it.
template <class Value> auto one_of(std::vector<std::pair<const char*, Value>> words) {
  return [=](const Napi::Value& value, const std::string& name) {
    const std::string received = string(value, name);
    std::string expected;
    for (const auto& [word, meaning] : words) {
      if (received == word) return meaning;
      expected += (expected.empty() ? "" : ", ") + std::string(word);
    }
    throw Error("ARGUMENT_INVALID", text("Expected one of ", expected, " for ", name, " but received ", received));
  };
}

// ---- to JavaScript ----

inline Napi::Value to_js(Napi::Env, const Napi::Value& value) { return value; }
inline Napi::Value to_js(Napi::Env env, double x) { return Napi::Number::New(env, x); }
inline Napi::Value to_js(Napi::Env env, std::optional<double> x) { return x ? to_js(env, *x) : env.Undefined(); }
// By JavaScript's own constructor: where there is no memory it throws a RangeError, and N-API's function ends the process.
inline Napi::Value to_js(Napi::Env env, const std::vector<float>& data) {
  const auto make = env.Global().Get("Float32Array").As<Napi::Function>();
  Napi::Value array;
  try {
    array = make.New({to_js(env, static_cast<double>(data.size()))});
  } catch (const Napi::Error&) {
    throw Error("OUT_OF_MEMORY", text("Expected memory for a result of ", data.size(), " numbers but the system has no more"));
  }
  const std::span<float> to = view<float>(array, "a result");
  CHECK(to.size() == data.size(), "INTERNAL", "Expected a Float32Array of ", data.size(), " elements but received ", to.size());
  std::copy(data.begin(), data.end(), to.begin());
  return array;
}
inline Napi::Value to_js(Napi::Env env, const Shape& shape) {
  auto array = Napi::Array::New(env, shape.rank());
  for (int i = 0; i < shape.rank(); i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(shape[i]));
  return array;
}
inline Napi::Value to_js(Napi::Env env, const HostTensor& tensor) {
  auto out = Napi::Object::New(env);
  out.Set("shape", to_js(env, tensor.shape));
  out.Set("data", to_js(env, std::get<std::vector<float>>(tensor.data)));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Layer& layer) {
  auto out = Napi::Object::New(env);
  out.Set("path", layer.path);
  out.Set("kind", layer.is_conv ? "conv" : "linear");
  out.Set("inFeatures", static_cast<double>(layer.in_features));
  out.Set("outFeatures", static_cast<double>(layer.out_features));
  out.Set("kernel", static_cast<double>(layer.window.kernel));
  out.Set("stride", static_cast<double>(layer.window.stride));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Parameter& parameter) {
  auto out = Napi::Object::New(env);
  out.Set("network", parameter.network);
  out.Set("name", parameter.name);
  out.Set("shape", to_js(env, parameter.shape));
  out.Set("group", static_cast<double>(parameter.group));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const BufferSpec& buffer) {
  auto out = Napi::Object::New(env);
  out.Set("name", buffer.name);
  out.Set("dtype", "F32");
  out.Set("count", static_cast<double>(buffer.count));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const MemoryPlan& plan) {
  auto out = Napi::Object::New(env);
  out.Set("weights", static_cast<double>(plan.weights));
  out.Set("mapped", static_cast<double>(plan.mapped));
  out.Set("program", static_cast<double>(plan.program));
  out.Set("adapters", static_cast<double>(plan.adapters));
  out.Set("activations", static_cast<double>(plan.activations));
  out.Set("workspace", static_cast<double>(plan.workspace));
  out.Set("total", static_cast<double>(plan.total()));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Description::Work& work) {
  auto out = Napi::Object::New(env);
  out.Set("op", work.op);
  out.Set("layer", work.layer);
  out.Set("flops", work.flops);
  out.Set("bytes", static_cast<double>(work.bytes));
  out.Set("alive", static_cast<double>(work.alive));
  out.Set("shape", to_js(env, work.shape));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Description::Held& held) {
  auto out = Napi::Object::New(env);
  out.Set("name", held.name);
  out.Set("layer", held.layer);
  out.Set("shape", to_js(env, held.shape));
  out.Set("bytes", static_cast<double>(held.bytes));
  return out;
}
template <class Item> Napi::Value to_js(Napi::Env env, const std::vector<Item>& items) {
  auto out = Napi::Array::New(env, items.size());
  for (uint32_t i = 0; i < items.size(); i++) out.Set(i, to_js(env, items[i]));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Description& description) {
  auto out = Napi::Object::New(env);
  out.Set("nodes", to_js(env, description.nodes));
  out.Set("largest", to_js(env, description.largest));
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Profile& profile) {
  auto out = Napi::Object::New(env);
  const Napi::Value nodes = to_js(env, profile.nodes);
  for (uint32_t i = 0; i < profile.nodes.size(); i++)
    nodes.As<Napi::Array>().Get(i).As<Napi::Object>().Set("seconds", profile.times.nodes[i]);
  out.Set("nodes", nodes);
  out.Set("updateSeconds", profile.times.end);
  return out;
}
inline Napi::Value to_js(Napi::Env env, const Speeds& speeds) {
  auto out = Napi::Object::New(env), flops = Napi::Object::New(env);
  for (const auto& [op, rate] : speeds.flops) flops.Set(op, rate);
  out.Set("bytes", speeds.bytes);
  out.Set("flops", flops);
  return out;
}
struct Done {};  // the result of what has none
inline Napi::Value to_js(Napi::Env env, Done) { return env.Undefined(); }

// ---- errors ----

// What the exception being handled is for JavaScript; call it in a handler. Errors of N-API itself pass.
inline Error failure() {
  try {
    throw;
  } catch (const Error& e) { return e; } catch (const std::bad_alloc&) {
    return {"OUT_OF_MEMORY", "The system has no more memory"};
  } catch (const Napi::Error&) { throw; } catch (const std::exception& e) {
    return {"INTERNAL", e.what()};
  }
}

inline Napi::Error js_error(Napi::Env env, const Error& from) {
  auto error = Napi::Error::New(env, from.what());
  error.Set("code", Napi::String::New(env, from.code()));
  return error;
}

// Runs f; every C++ error leaves as a JS exception.
template <class F> auto guarded(Napi::Env env, F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Napi::Error&) { throw; } catch (...) {
    throw js_error(env, failure());
  }
}

}  // namespace lorafuse
