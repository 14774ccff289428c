#include "tensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "json.hpp"

namespace caloforge::runtime {

MappedFile::MappedFile(const std::string& path) {
    const int handle = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (handle < 0) throw Failure(CF_NO_FILE, "'" + path + "' cannot be opened");
    struct stat state;
    const bool fine = ::fstat(handle, &state) == 0 && S_ISREG(state.st_mode) && state.st_size > 0;
    if (fine) {
        bytes_ = size_t(state.st_size);
        data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, handle, 0);
    }
    ::close(handle);
    if (!fine || data_ == MAP_FAILED) {
        data_ = nullptr;
        throw Failure(CF_NO_FILE, "'" + path + "' is empty or no file");
    }
}

bool MappedFile::exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

MappedFile::~MappedFile() {
    if (data_) ::munmap(data_, bytes_);
}

void MappedFile::forget() const { ::madvise(data_, bytes_, MADV_DONTNEED); }

namespace {

float from_half(uint16_t half) {
    const int exponent = half >> 10 & 31, digits = half & 1023;
    const float size = exponent == 0    ? std::ldexp(float(digits), -24)
                       : exponent == 31 ? (digits ? NAN : INFINITY)
                                        : std::ldexp(float(1024 + digits), exponent - 25);
    return half >> 15 ? -size : size;
}

void from_halves(const char* from, int64_t count, float* to) {
    int64_t k = 0;
#if defined(__F16C__)
    for (; k + 8 <= count; k += 8)
        _mm256_storeu_ps(to + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * k))));
#endif
    for (; k < count; ++k) {
        uint16_t half;
        std::memcpy(&half, from + 2 * k, 2);
        to[k] = from_half(half);
    }
}

template <class T>
std::vector<T> copied(const Tensor& tensor) {
    std::vector<T> out(size_t(tensor.count));
    std::memcpy(out.data(), tensor.data, out.size() * sizeof(T));
    return out;
}

}  // namespace

Tensors::Tensors(const std::string& path) : file_(path) {
    const std::string_view text = file_.text();
    uint64_t header = 0;
    need(text.size() >= 8, "'" + path + "' is no safetensors file");
    std::memcpy(&header, text.data(), 8);
    need(header <= text.size() - 8, "'" + path + "' is truncated");
    const std::string_view body = text.substr(8 + size_t(header));
    const Json head = Json::parse(text.substr(8, size_t(header)));
    for (const auto& [name, entry] : head.object()) {
        if (name == "__metadata__") continue;
        const std::string& type = entry["dtype"].text();
        const int bytes = type == "F16" ? 2 : type == "F32" || type == "I32" ? 4 : type == "F64" || type == "I64" ? 8 : 0;
        need(bytes > 0, "the tensor '" + name + "' is of an unknown type");
        Tensor tensor{type == "F16"   ? Tensor::Type::f16
                      : type == "F32" ? Tensor::Type::f32
                      : type == "F64" ? Tensor::Type::f64
                      : type == "I32" ? Tensor::Type::i32
                                      : Tensor::Type::i64,
                      {}, nullptr, 1};
        for (const Json& size : entry["shape"].list()) {
            tensor.shape.push_back(size.whole(0, int64_t(1) << 40));
            need(tensor.shape.back() == 0 || tensor.count <= (int64_t(1) << 40) / tensor.shape.back(), "a tensor is too large");
            tensor.count *= tensor.shape.back();
        }
        need(entry["data_offsets"].list().size() == 2, "a tensor has no place");
        const int64_t size = int64_t(body.size());
        const int64_t begin = entry["data_offsets"].list()[0].whole(0, size), end = entry["data_offsets"].list()[1].whole(0, size);
        need(end - begin == tensor.count * bytes, "the tensor '" + name + "' has another size than its place");
        tensor.data = body.data() + begin;
        tensors_.emplace(name, std::move(tensor));
    }
}

const Tensor& Tensors::find(const std::string& name, int64_t count) const {
    const auto found = tensors_.find(name);
    need(found != tensors_.end(), "the tensor '" + name + "' is missing");
    need(count < 0 || found->second.count == count, "the tensor '" + name + "' has another size");
    return found->second;
}

const float* Tensors::floats(const std::string& name, int64_t count, std::vector<float>& room) const {
    const Tensor& tensor = find(name, count);
    if (tensor.type == Tensor::Type::f16) {
        room.resize(size_t(tensor.count));
        from_halves(tensor.data, tensor.count, room.data());
        return room.data();
    }
    need(tensor.type == Tensor::Type::f32, "the tensor '" + name + "' is not of 32-bit numbers");
    if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(float) == 0) return reinterpret_cast<const float*>(tensor.data);
    room = copied<float>(tensor);
    return room.data();
}

template <class T>
const T* Tensors::in_place(const std::string& name, int64_t count, std::vector<T>& room) const {
    if constexpr (std::is_same_v<T, float>) {
        return floats(name, count, room);
    } else {
        constexpr auto wanted = std::is_same_v<T, double>    ? Tensor::Type::f64
                                : std::is_same_v<T, int32_t> ? Tensor::Type::i32
                                                             : Tensor::Type::i64;
        const Tensor& tensor = find(name, count);
        need(tensor.type == wanted, "the tensor '" + name + "' is of another type");
        if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(T) == 0) return reinterpret_cast<const T*>(tensor.data);
        room = copied<T>(tensor);
        return room.data();
    }
}
template const float* Tensors::in_place(const std::string&, int64_t, std::vector<float>&) const;
template const double* Tensors::in_place(const std::string&, int64_t, std::vector<double>&) const;
template const int32_t* Tensors::in_place(const std::string&, int64_t, std::vector<int32_t>&) const;
template const int64_t* Tensors::in_place(const std::string&, int64_t, std::vector<int64_t>&) const;

std::vector<double> Tensors::doubles(const std::string& name, int64_t count) const {
    const Tensor& tensor = find(name, count);
    need(tensor.type == Tensor::Type::f64, "the tensor '" + name + "' is not of 64-bit numbers");
    return copied<double>(tensor);
}

std::vector<int64_t> Tensors::wholes(const std::string& name, int64_t count) const {
    const Tensor& tensor = find(name, count);
    need(tensor.type == Tensor::Type::i64, "the tensor '" + name + "' is not of whole numbers");
    return copied<int64_t>(tensor);
}

}  // namespace caloforge::runtime
