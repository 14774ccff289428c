#pragma once
#include "globals.hh"
namespace CLHEP {
class Hep3Vector {
public:
    Hep3Vector() = default;
    Hep3Vector(double x, double y, double z) : v_{x, y, z} {}
    double x() const { return v_[0]; }
    double y() const { return v_[1]; }
    double z() const { return v_[2]; }
    double mag2() const { return dot(*this); }
    double dot(const Hep3Vector& o) const { return v_[0] * o.v_[0] + v_[1] * o.v_[1] + v_[2] * o.v_[2]; }
    Hep3Vector cross(const Hep3Vector& o) const {
        return {v_[1] * o.v_[2] - v_[2] * o.v_[1], v_[2] * o.v_[0] - v_[0] * o.v_[2], v_[0] * o.v_[1] - v_[1] * o.v_[0]};
    }
    bool operator==(const Hep3Vector& o) const { return v_[0] == o.v_[0] && v_[1] == o.v_[1] && v_[2] == o.v_[2]; }

private:
    double v_[3] = {0, 0, 0};
};
inline Hep3Vector operator+(const Hep3Vector& a, const Hep3Vector& b) { return {a.x() + b.x(), a.y() + b.y(), a.z() + b.z()}; }
inline Hep3Vector operator-(const Hep3Vector& a, const Hep3Vector& b) { return {a.x() - b.x(), a.y() - b.y(), a.z() - b.z()}; }
inline Hep3Vector operator*(double f, const Hep3Vector& a) { return {f * a.x(), f * a.y(), f * a.z()}; }
}  // namespace CLHEP
using G4ThreeVector = CLHEP::Hep3Vector;
