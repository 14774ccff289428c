// Tensors in a safetensors file, which stays mapped: what is packed in another order later is read from it again, and the system
// may drop its pages in between.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "failure.hpp"

namespace caloforge::runtime {

class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    static bool exists(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    std::string_view text() const { return {static_cast<const char*>(data_), bytes_}; }
    // Until they are looked at again, its pages need no memory.
    void forget() const;

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

struct Tensor {
    enum class Type { f16, f32, f64, i32, i64 } type;
    std::vector<int64_t> shape;
    const char* data;
    int64_t count;
};

class Tensors {
public:
    explicit Tensors(const std::string& path);

    // Numbers of a tensor, of which there must be `count` unless that is -1.
    const float* floats(const std::string& name, int64_t count, std::vector<float>& room) const;
    std::vector<double> doubles(const std::string& name, int64_t count = -1) const;
    std::vector<int64_t> wholes(const std::string& name, int64_t count = -1) const;
    // The numbers where they lie in the file, which stays mapped; in `room` if it holds them at odd places.
    template <class T>
    const T* in_place(const std::string& name, int64_t count, std::vector<T>& room) const;
    int64_t count(const std::string& name) const { return find(name, -1).count; }
    std::string_view text() const { return file_.text(); }
    void forget() const { file_.forget(); }

private:
    const Tensor& find(const std::string& name, int64_t count) const;

    MappedFile file_;
    std::map<std::string, Tensor> tensors_;
};

}  // namespace caloforge::runtime
